"""How the load generator asks each kind of server for one picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from flux_bench.plan import GUIDANCE, Wish

#: Encoded picture and wish in, encoded variation out; raises whatever its library raises. Threads may share one.
Caller: TypeAlias = Callable[[bytes, Wish], bytes]

Tensors: TypeAlias = "dict[str, npt.NDArray[Any]]"

#: Seconds after which a request counts as failed.
TIMEOUT_S = 1800.0


def open_caller(kind: str, address: str) -> Caller:
    """kind: a key of CALLERS. address: host:port; empty for the loop, which has no server."""
    return CALLERS[kind](address)


def _form(address: str) -> Caller:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT_S, limits=limits, trust_env=False)

    def call(picture: bytes, wish: Wish) -> bytes:
        fields = {"side": str(wish.side), "steps": str(wish.steps), "seed": str(wish.seed)}
        response = client.post("/predict", data=fields, files={"image": ("picture.png", picture, "image/png")})
        return response.raise_for_status().content

    return call


def _pytriton(address: str) -> Caller:
    numbers = ("side", "steps", "seed")

    def tensors(picture: bytes, wish: Wish) -> Tensors:
        image = {"image": np.array([[picture]], dtype=object)}
        return image | {name: np.array([[getattr(wish, name)]], np.int64) for name in numbers}

    return _tritonclient(address, "redux", "variation", tensors)


def _raw(address: str) -> Caller:
    def tensors(picture: bytes, wish: Wish) -> Tensors:
        return {
            "IMAGE": np.array([[picture]], dtype=object),
            "HEIGHT": np.array([[wish.side]], np.int32),
            "WIDTH": np.array([[wish.side]], np.int32),
            "NUM_INFERENCE_STEPS": np.array([[wish.steps]], np.int32),
            "GUIDANCE_SCALE": np.array([[GUIDANCE]], np.float32),
            "SEED": np.array([[wish.seed]], np.int64),
        }

    return _tritonclient(address, "flux_redux", "OUTPUT_IMAGE", tensors)


def _tritonclient(address: str, model: str, output: str, tensors: Callable[[bytes, Wish], Tensors]) -> Caller:
    import tritonclient.grpc as triton
    from tritonclient.utils import np_to_triton_dtype

    client = triton.InferenceServerClient(address)

    def call(picture: bytes, wish: Wish) -> bytes:
        inputs = []
        for name, values in tensors(picture, wish).items():
            tensor = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
            inputs.append(tensor.set_data_from_numpy(values))
        answer = client.infer(model, inputs, client_timeout=TIMEOUT_S).as_numpy(output)
        variation: bytes = answer[0, 0]
        return variation

    return call


def _flux_client(protocol: Literal["grpc", "http"]) -> Callable[[str], Caller]:
    def opened(address: str) -> Caller:
        from flux_client import FluxClient, RetryPolicy

        # A refusal counts as a failure here, so nothing is tried twice.
        client = FluxClient(address, protocol=protocol, timeout_s=TIMEOUT_S, retry=RetryPolicy(attempts=1))

        def call(picture: bytes, wish: Wish) -> bytes:
            variations = client.redux(
                picture,
                height=wish.side,
                width=wish.side,
                num_inference_steps=wish.steps,
                guidance_scale=GUIDANCE,
                seed=wish.seed,
            )
            return bytes(variations[0].data)

        return call

    return opened


def _loop(_: str) -> Caller:
    from flux_bench.checkpoint import CHECKPOINTS
    from flux_bench.stock import StockDiffusers, as_png, opened

    stock = StockDiffusers(CHECKPOINTS)

    def call(picture: bytes, wish: Wish) -> bytes:
        return as_png(stock.variation(opened(picture), wish))

    return call


CALLERS: dict[str, Callable[[str], Caller]] = {
    "loop": _loop,
    "form": _form,
    "pytriton": _pytriton,
    "flux-grpc": _flux_client("grpc"),
    "flux-http": _flux_client("http"),
    "raw-grpc": _raw,
}
