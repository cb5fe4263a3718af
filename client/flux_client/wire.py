"""Converts requests to arguments of tritonclient, and results to arrays, for gRPC and HTTP."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tritonclient.utils import np_to_triton_dtype

from flux_client.request import Request
from flux_client.transport import Answer


def infer_arguments(library: ModuleType, request: Request, timeout_s: float, request_id: str) -> dict[str, Any]:
    """Return the arguments of `infer`. library: tritonclient.grpc or tritonclient.http.

    The timeout is also sent as Triton's `timeout` in microseconds, so that the server drops expired requests.
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
    """Convert seconds to microseconds, at least 1, because Triton reads 0 as no timeout."""
    return max(1, int(timeout_s * 1e6))


def read_result(result: Any, request: Request) -> Answer:
    """Return the outputs by name, without those that the server omitted."""
    arrays = {name: result.as_numpy(name) for name in request.outputs}
    return {name: array for name, array in arrays.items() if array is not None}
