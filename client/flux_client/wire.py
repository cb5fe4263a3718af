"""A request as tritonclient takes it, and its result as arrays; gRPC and HTTP are alike here."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tritonclient.utils import np_to_triton_dtype

from flux_client.request import Request
from flux_client.transport import Answer


def infer_arguments(library: ModuleType, request: Request, timeout_s: float, request_id: str) -> dict[str, Any]:
    """Arguments of `infer`. library: tritonclient.grpc or tritonclient.http.

    The time left goes along as Triton's `timeout` in microseconds: the server drops work that nobody waits for.
    """
    inputs = []
    for name, array in request.inputs.items():
        tensor = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return {
        "model_name": request.model,
        "inputs": inputs,
        "outputs": [library.InferRequestedOutput(name) for name in request.outputs],
        "request_id": request_id,
        "timeout": triton_timeout_us(timeout_s),
    }


def triton_timeout_us(timeout_s: float) -> int:
    """Triton reads 0 as no timeout at all."""
    return max(1, int(timeout_s * 1e6))


def read_result(result: Any, request: Request) -> Answer:
    """Outputs by name; one that the server left out is absent."""
    arrays = {name: result.as_numpy(name) for name in request.outputs}
    return {name: array for name, array in arrays.items() if array is not None}
