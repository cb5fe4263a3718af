# A stand-in for NVIDIA's Triton image, to build and check the GPU image without it: a slim Python, with the embedded
# Triton in the same folders. It needs no GPU and does not contain CUDA.
ARG CPU_BASE=python:3.11-slim-bookworm
FROM ${CPU_BASE}
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --no-deps --only-binary=:all: --target /wheel nvidia-pytriton==0.7.0 \
    && mkdir /opt/tritonserver \
    && mv /wheel/nvidia_pytriton.libs /opt/tritonserver/lib \
    && mv /wheel/pytriton/tritonserver/bin /wheel/pytriton/tritonserver/backends /wheel/pytriton/tritonserver/caches \
        /opt/tritonserver/ \
    && version="$(python3 -c 'import sys; print(*sys.version_info[:2], sep=".")')" \
    && mv "/wheel/pytriton/tritonserver/python_backend_stubs/${version}/triton_python_backend_stub" \
        /opt/tritonserver/backends/python/ \
    && rm -r /wheel \
    && useradd --uid 1000 triton-server
ENV PATH=/opt/tritonserver/bin:${PATH} LD_LIBRARY_PATH=/opt/tritonserver/lib
