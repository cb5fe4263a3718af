"""`scripts/serve`: start Triton, say when it is ready, pass signals on, end with it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from flux_serving.contract.pbtxt import DEFAULT_GPUS, gpu_list
from flux_serving.errors import CannotStart
from flux_serving.launch.exposure import EXPOSE_FLAG, KEY_VARIABLE, RESTRICTED_APIS
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import end_on_signals
from flux_serving.launch.server import ModelDied, ServerOptions, TritonServer
from flux_serving.launch.tracing import ENDPOINT_VARIABLE, traces_url
from flux_serving.launch.variables import unknown_variables
from flux_serving.settings import (
    BASE_VARIABLE,
    CONTROLNET_VARIABLE,
    LORA_VARIABLE,
    REDUX_VARIABLE,
    VAE_VARIABLE,
    Checkpoints,
)


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, expected 1..65535")
    return int(text)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/serve",
        description="Serve FLUX Redux on Triton.",
        epilog=f"{BASE_VARIABLE} and {REDUX_VARIABLE} name the checkpoints, in diffusers layout; optional are "
        f"{CONTROLNET_VARIABLE}, {VAE_VARIABLE}, and {LORA_VARIABLE}, a folder of adapters. Where "
        f"{ENDPOINT_VARIABLE} is set, every request is traced, and the spans go there.",
    )
    parser.add_argument("--profile", choices=("cpu", "gpu", "k8s"), default="cpu", help="default: cpu")
    parser.add_argument("--gpus", type=gpu_list, help="with --profile gpu; default: 7,8")
    parser.add_argument("--gateway-port", type=port, help="serve REST there, too; default: none, GenServe's is 12411")
    parser.add_argument("--gateway-host", metavar="ADDRESS", help="of the REST gateway; default: 127.0.0.1")
    parser.add_argument(
        "--triton-host", default="127.0.0.1", metavar="ADDRESS", help="of Triton's three ports; default: 127.0.0.1"
    )
    parser.add_argument("--http-port", type=port, default=8000, help="Triton's; default: 8000")
    parser.add_argument("--grpc-port", type=port, default=8001, help="Triton's; default: 8001")
    parser.add_argument("--metrics-port", type=port, default=8002, help="Triton's; default: 8002")
    parser.add_argument(
        EXPOSE_FLAG,
        action="store_true",
        help="let other machines reach a Triton that has published remote vulnerabilities, as the embedded one has",
    )
    parser.add_argument(
        "--allow-api",
        action="append",
        default=[],
        choices=RESTRICTED_APIS,
        help=f"an API of Triton that needs no key, may be repeated; default: none. {KEY_VARIABLE} sets the key",
    )
    parser.add_argument(
        "--exit-timeout",
        type=int,
        default=30,
        metavar="SECONDS",
        help="that running requests have at SIGTERM before they are lost; default: 30",
    )
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"))
    options = parser.parse_args()
    if options.gpus and options.profile != "gpu":
        parser.error("--gpus goes with --profile gpu")
    if options.gateway_host and not options.gateway_port:
        parser.error("--gateway-host goes with --gateway-port")
    return options


def main() -> int:
    given = read_options()
    for line in unknown_variables(os.environ):
        print(f"scripts/serve: warning: {line}", file=sys.stderr)
    end_on_signals()
    try:
        options = ServerOptions(
            repository=given.model_repository,
            checkpoints=Checkpoints.from_environment(os.environ),
            profile=given.profile,
            gpus=given.gpus or DEFAULT_GPUS,
            host=given.triton_host,
            http_port=given.http_port,
            grpc_port=given.grpc_port,
            metrics_port=given.metrics_port,
            exit_timeout_s=given.exit_timeout,
            traces_url=traces_url(os.environ),
            allowed_apis=tuple(given.allow_api),
            api_key=os.environ.get(KEY_VARIABLE, ""),
            expose_vulnerable=given.expose_vulnerable_triton,
        )
        with TritonServer(options) as server, contextlib.ExitStack() as beside:
            urls = f"http {server.http_url}, grpc {server.grpc_url}"
            if given.gateway_port:
                host = given.gateway_host or "127.0.0.1"
                gateway = Gateway(server.grpc_url, host, given.gateway_port, exit_timeout_s=given.exit_timeout)
                beside.enter_context(gateway)
                urls = f"REST {gateway.url}, {urls}"
            server.wait_until_ready()
            for mode, reason in options.checkpoints.unserved_modes().items():
                print(f"scripts/serve: {mode} is not served: {reason}", file=sys.stderr)
            print(f"ready: {urls}", flush=True)
            print(f"scripts/serve: Triton ended with exit status {server.wait()}", file=sys.stderr)
    except (CannotStart, ModelDied) as error:
        print(f"scripts/serve: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
