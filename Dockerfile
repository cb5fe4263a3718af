# Two images, each built in three layers: torch, the locked dependencies, and flux-triton itself.
#   gpu   NVIDIA's Triton; checkpoints are mounted
#   cpu   slim Python with the embedded Triton and the demo checkpoint
# docs/images.md describes how to build and run them; requirements/ lists their packages.
ARG GPU_BASE=nvcr.io/nvidia/tritonserver:26.08-py3
ARG CPU_BASE=python:3.11-slim-bookworm

# The virtual environment has no pip. layers.pth adds the other two folders to its path and to that of Triton's stub.
FROM ${GPU_BASE} AS gpu-torch
ARG TORCH_LOCK=torch-gpu.lock
# The index of PyTorch's CPU builds, if the lock names them.
ARG PIP_EXTRA_INDEX_URL
COPY requirements/${TORCH_LOCK} /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --no-deps --require-hashes --only-binary=:all: --target /opt/torch \
        -r "/requirements/${TORCH_LOCK}"

FROM gpu-torch AS gpu-locked
RUN python3 -m venv --without-pip /opt/venv \
    && for site in /opt/venv/lib/python3.*/site-packages; do \
        printf '%s\n' /opt/torch /opt/flux-triton/packages >"${site}/layers.pth"; done
COPY requirements/gpu.lock /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/venv/bin/python3 install --no-deps --require-hashes --only-binary=:all: \
        -r /requirements/gpu.lock \
    && python3 -m pip --python /opt/venv/bin/python3 check

FROM gpu-locked AS gpu-built
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY contract contract
COPY serving serving
COPY client client
COPY gateway gateway
RUN python3 -m pip --python /opt/venv/bin/python3 install --no-deps --no-build-isolation --no-cache-dir \
        --target /opt/flux-triton/packages . \
    && python3 -m pip --python /opt/venv/bin/python3 check
COPY model_repository /opt/flux-triton/model_repository
COPY scripts/serve scripts/start.sh scripts/environment.sh /opt/flux-triton/scripts/

FROM ${GPU_BASE} AS gpu
# NVIDIA's image already has a user with the id 1000.
RUN mkdir /models && { id -u 1000 >/dev/null 2>&1 || useradd --uid 1000 --user-group --home-dir /tmp flux; }
COPY --from=gpu-torch /opt/torch /opt/torch
COPY --from=gpu-locked /opt/venv /opt/venv
COPY --from=gpu-built /opt/flux-triton /opt/flux-triton
WORKDIR /opt/flux-triton
# The root file system can be read-only, so libraries keep their caches in /tmp.
ENV PATH=/opt/venv/bin:/opt/flux-triton/packages/bin:${PATH} HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
    FLUX_MODEL_PATH=/models/FLUX.1-dev FLUX_REDUX_MODEL_PATH=/models/FLUX.1-Redux-dev
USER 1000:1000
EXPOSE 12411
HEALTHCHECK --start-period=30m --interval=15s --timeout=15s --retries=2 \
    CMD ["python3", "-m", "flux_serving.launch.probe"]
ENTRYPOINT ["scripts/start.sh"]
ARG GPU_BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="flux-triton" \
    org.opencontainers.image.description="FLUX.1 Redux on NVIDIA Triton, for GPUs" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${GPU_BASE}"

FROM ${CPU_BASE} AS cpu-torch
# The index of PyTorch's CPU builds. No other index has the versions in the lock.
ARG PIP_EXTRA_INDEX_URL
COPY requirements/torch-cpu.lock /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --no-deps --require-hashes --only-binary=:all: --target /opt/torch \
        -r /requirements/torch-cpu.lock

FROM cpu-torch AS cpu-locked
RUN python3 -m venv --without-pip /opt/venv \
    && for site in /opt/venv/lib/python3.*/site-packages; do \
        printf '%s\n' /opt/torch /opt/flux-triton/packages >"${site}/layers.pth"; done
COPY requirements/cpu.lock /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/venv/bin/python3 install --no-deps --require-hashes --only-binary=:all: \
        -r /requirements/cpu.lock \
    && python3 -m pip --python /opt/venv/bin/python3 check

FROM cpu-locked AS cpu-built
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY contract contract
COPY serving serving
COPY client client
COPY gateway gateway
RUN python3 -m pip --python /opt/venv/bin/python3 install --no-deps --no-build-isolation --no-cache-dir \
        --target /opt/flux-triton/packages . \
    && python3 -m pip --python /opt/venv/bin/python3 check
COPY model_repository /opt/flux-triton/model_repository

FROM cpu-built AS cpu-checkpoint
COPY tools/flux_tools/__init__.py tools/flux_tools/
COPY tools/flux_tools/demo tools/flux_tools/demo
# diffusers saves weights that only their owner can read.
RUN PYTHONPATH=tools /opt/venv/bin/python3 -m flux_tools.demo --expand-only && chmod -R a+rX checkpoints

FROM ${CPU_BASE} AS cpu
RUN useradd --uid 1000 --user-group --home-dir /tmp flux
COPY --from=cpu-torch /opt/torch /opt/torch
COPY --from=cpu-locked /opt/venv /opt/venv
COPY --from=cpu-checkpoint /source/checkpoints /opt/flux-triton/checkpoints
COPY --from=cpu-built /opt/flux-triton /opt/flux-triton
WORKDIR /opt/flux-triton
# The root file system can be read-only, so libraries keep their caches in /tmp.
ENV PATH=/opt/venv/bin:/opt/flux-triton/packages/bin:${PATH} HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
    FLUX_MODEL_PATH=/opt/flux-triton/checkpoints/demo/flux-base \
    FLUX_REDUX_MODEL_PATH=/opt/flux-triton/checkpoints/demo/flux-redux \
    FLUX_CONTROLNET_MODEL_PATH=/opt/flux-triton/checkpoints/demo/flux-controlnet-canny \
    FLUX_LORA_PATH=/opt/flux-triton/checkpoints/demo/flux-lora
USER 1000:1000
# Triton listens on loopback, because the embedded version has published remote vulnerabilities.
EXPOSE 12411
HEALTHCHECK --start-period=30m --interval=15s --timeout=15s --retries=2 \
    CMD ["python3", "-m", "flux_serving.launch.probe"]
ENTRYPOINT ["python3", "-m", "flux_serving.launch", "--model-repository=/opt/flux-triton/model_repository", \
    "--gateway-host=0.0.0.0", "--gateway-port=12411"]
CMD ["--profile=cpu"]
ARG CPU_BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="flux-triton" \
    org.opencontainers.image.description="FLUX.1 Redux on the embedded NVIDIA Triton, for CPUs, with a demo checkpoint" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${CPU_BASE}"
