#!/usr/bin/env bash
# Serve on GPUs, configured by environment variables. Unlike scripts/serve, it uses GPUs 7 and 8 by default instead of
# the CPU, and always starts the REST gateway, which listens on all addresses. It passes its arguments on to
# scripts/serve (see scripts/serve --help), where they take precedence over these variables:
#
#   FLUX_MODEL_PATH         folder of FLUX.1-dev, in diffusers layout
#   FLUX_REDUX_MODEL_PATH   folder of FLUX.1-Redux-dev
#   FLUX_CONTROLNET_MODEL_PATH, FLUX_VAE_MODEL_PATH   optional: folders of a FLUX ControlNet for Canny edges, and of
#                           another VAE
#   FLUX_LORA_PATH          optional: folder of LoRA adapters, NAME.safetensors each
#   FLUX_REDUX_GPUS         GPUs to serve on, default 7,8; `cpu` to serve on the CPU
#   HOST, PORT              address and port of the REST gateway, default 0.0.0.0 and 12411
#   TRITON_HOST             address of Triton, default 127.0.0.1: its ports have no keys and no rate limits
#   HTTP_PORT, GRPC_PORT, METRICS_PORT   Triton's ports, default 8000, 8001, 8002
set -euo pipefail
if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then
    source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
    show_help "" "$@"
fi

if [ "${FLUX_REDUX_GPUS:-}" = cpu ]; then
    profile=(--profile cpu)
else
    profile=(--profile gpu --gpus "${FLUX_REDUX_GPUS:-7,8}")
fi
exec "$(dirname "${BASH_SOURCE[0]}")/serve" "${profile[@]}" \
    --gateway-host "${HOST:-0.0.0.0}" --gateway-port "${PORT:-12411}" --triton-host "${TRITON_HOST:-127.0.0.1}" \
    --http-port "${HTTP_PORT:-8000}" --grpc-port "${GRPC_PORT:-8001}" --metrics-port "${METRICS_PORT:-8002}" "$@"
