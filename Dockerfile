# Two targets:
#   gpu   on NVIDIA's Triton image:  docker build --target gpu -t flux-triton .
#   cpu   on slim Python, with the embedded Triton and the demo checkpoint:  docker build --target cpu -t flux-triton:cpu .
ARG GPU_BASE=nvcr.io/nvidia/tritonserver:26.08-py3
ARG CPU_BASE=python:3.11-slim-bookworm

FROM ${GPU_BASE} AS gpu
ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/flux-triton
# Torch first and alone: its layer outlives every change of ours.
RUN python3 -m pip install "${TORCH}"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY serving serving
COPY client client
RUN python3 -m pip install ".[server,gateway]"
COPY model_repository model_repository
COPY scripts/serve scripts/start.sh scripts/environment.sh scripts/
RUN id -u 1000 >/dev/null 2>&1 || useradd --uid 1000 --create-home flux
USER 1000
# Checkpoints come by volume.
ENV FLUX_MODEL_PATH=/models/FLUX.1-dev FLUX_REDUX_MODEL_PATH=/models/FLUX.1-Redux-dev HOST=0.0.0.0
EXPOSE 8000 8001 8002 12411
ENTRYPOINT ["scripts/start.sh"]

FROM ${CPU_BASE} AS cpu
ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/flux-triton
RUN python3 -m pip install "${TORCH}"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY serving serving
COPY client client
RUN python3 -m pip install ".[server,embedded,gateway]"
COPY model_repository model_repository
COPY scripts scripts
RUN PYTHONPATH=scripts python3 -m flux_demo --expand-only \
    && useradd --uid 1000 --create-home flux
USER 1000
ENV FLUX_MODEL_PATH=/opt/flux-triton/checkpoints/demo/flux-base \
    FLUX_REDUX_MODEL_PATH=/opt/flux-triton/checkpoints/demo/flux-redux \
    FLUX_CONTROLNET_MODEL_PATH=/opt/flux-triton/checkpoints/demo/flux-controlnet-canny \
    FLUX_LORA_PATH=/opt/flux-triton/checkpoints/demo/flux-lora
EXPOSE 8000 8001 8002 12411
ENTRYPOINT ["python3", "-m", "flux_serving.launch", "--model-repository", "/opt/flux-triton/model_repository", "--host", "0.0.0.0"]
CMD ["--profile", "cpu"]
