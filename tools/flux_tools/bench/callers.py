"""Clients with which the load generator requests one image from each kind of server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from flux_contract.internal_tensors import OUTPUT_IMAGE
from flux_contract.modes import BY_NAME
from flux_tools.bench.inputs import inputs_of
from flux_tools.bench.plan import ImageOptions

#: Sends an encoded image and a job, and returns the encoded result. Raises the errors of its library. Thread-safe,
#: except for the loop.
Caller: TypeAlias = Callable[[bytes, ImageOptions], bytes]

Tensors: TypeAlias = "dict[str, npt.NDArray[Any]]"

#: Seconds after which a request counts as failed.
TIMEOUT_S = 1800.0


def open_caller(kind: str, address: str) -> Caller:
    """Return a caller. kind: a key of CALLERS. address: host:port; empty for the loop, which has no server."""
    return CALLERS[kind](address)


def _form(address: str) -> Caller:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT_S, limits=limits, trust_env=False)

    def call(image: bytes, job: ImageOptions) -> bytes:
        fields = {name: str(getattr(job, name)) for name in ("side", "steps", "seed", "mode", "prompt")}
        response = client.post("/predict", data=fields, files={"image": ("image.png", image, "image/png")})
        return response.raise_for_status().content

    return call


def _pytriton(address: str) -> Caller:
    def request(image: bytes, job: ImageOptions) -> tuple[str, Tensors]:
        numbers = {name: np.array([[getattr(job, name)]], np.int64) for name in ("side", "steps", "seed")}
        texts = {"image": image, "mode": job.mode.encode(), "prompt": job.prompt.encode()}
        return "flux", numbers | {name: np.array([[text]], dtype=object) for name, text in texts.items()}

    return _tritonclient(address, request, "drawn")


def _raw(address: str) -> Caller:
    def request(image: bytes, job: ImageOptions) -> tuple[str, Tensors]:
        inputs = inputs_of(image, job).items()
        tensors = {parameter.name: parameter.array(value)[np.newaxis] for parameter, value in inputs}
        return BY_NAME[job.mode].ensemble.name, tensors

    return _tritonclient(address, request, OUTPUT_IMAGE.name)


def _tritonclient(address: str, request: Callable[[bytes, ImageOptions], tuple[str, Tensors]], output: str) -> Caller:
    """Return a caller that uses tritonclient. request: returns the model's name and its inputs."""
    import tritonclient.grpc as triton
    from tritonclient.utils import np_to_triton_dtype

    client = triton.InferenceServerClient(address)

    def call(image: bytes, job: ImageOptions) -> bytes:
        model, tensors = request(image, job)
        inputs = []
        for name, values in tensors.items():
            tensor = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
            inputs.append(tensor.set_data_from_numpy(values))
        images = client.infer(model, inputs, client_timeout=TIMEOUT_S).as_numpy(output)
        generated: bytes = images[0, 0]
        return generated

    return call


def _flux_client(protocol: Literal["grpc", "http"]) -> Callable[[str], Caller]:
    def opened(address: str) -> Caller:
        from flux_client import FluxClient, RetryPolicy

        # No retries: a rejected request counts as failed.
        client = FluxClient(address, protocol=protocol, timeout_s=TIMEOUT_S, retry=RetryPolicy(attempts=1))

        def call(image: bytes, job: ImageOptions) -> bytes:
            inputs = inputs_of(image, job).items()
            keywords = {parameter.python_name: value for parameter, value in inputs}
            generated = getattr(client, job.mode)(**keywords)
            return bytes(generated[0].data)

        return call

    return opened


def _loop(_: str) -> Caller:
    from flux_tools.bench.checkpoint import CHECKPOINTS
    from flux_tools.bench.stock import StockDiffusers, as_png, opened

    stock = StockDiffusers(CHECKPOINTS)

    def call(image: bytes, job: ImageOptions) -> bytes:
        return as_png(stock.draw(opened(image), job))

    return call


CALLERS: dict[str, Callable[[str], Caller]] = {
    "loop": _loop,
    "form": _form,
    "pytriton": _pytriton,
    "flux-grpc": _flux_client("grpc"),
    "flux-http": _flux_client("http"),
    "raw-grpc": _raw,
}
