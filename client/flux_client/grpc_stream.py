"""One request and its many answers over gRPC.

tritonclient's own synchronous streams are one for each client object, with a thread and a callback; its asynchronous
ones raise gRPC's errors as they are. So this calls Triton's method by tritonclient's stub: any number of streams share
one channel, gRPC keeps the deadline, and cancelling is gRPC's own. On loopback the first answer is there after 1.7 ms;
with one of tritonclient's client objects for each stream it would be 8 ms.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from flux_client.failures import from_stream, from_triton, no_answer
from flux_client.request import Request
from flux_client.transport import Answer
from flux_client.wire import read_result, triton_timeout_us
from flux_serving.contract.tensors import Array
from flux_serving.errors import Cancelled, DeadlineExceeded, FluxError


class GrpcAnswers:
    """The call is under way once this is made. stub: tritonclient's, on a channel of `grpc`."""

    def __init__(self, stub: Any, request: Request, timeout_s: float, request_id: str, url: str) -> None:
        self._reader = _Reader(request, timeout_s, url)
        call = _called(stub, request, timeout_s, request_id)
        #: The call; empty once it was let go.
        self._held: list[Any] = [call]
        weakref.finalize(self, _let_go, self._held)

    def __next__(self) -> Answer:
        try:
            return self._reader.answer(next(self._held[0]))
        except grpc.RpcError as error:
            raise self._reader.failure(error) from error

    def cancel(self) -> None:
        for call in self._held:
            call.cancel()


def _let_go(held: list[Any]) -> None:
    """End a call when nobody needs it any more, and at the latest when Python begins to exit.

    Later, while Python takes itself apart, gRPC waits for ever for a lock that one of its own threads had when it was
    stopped (tried on grpcio 1.85).
    """
    held.pop().cancel()


class AsyncGrpcAnswers:
    """The same on a channel of `grpc.aio`."""

    def __init__(self, stub: Any, request: Request, timeout_s: float, request_id: str, url: str) -> None:
        self._reader = _Reader(request, timeout_s, url)
        self._call: Any = _called(stub, request, timeout_s, request_id)

    async def __anext__(self) -> Answer:
        """gRPC says CancelledError where its call was cancelled; a task of its own tells that from the caller's."""
        reading = asyncio.ensure_future(self._call.read())
        try:
            await asyncio.wait([reading])
        except asyncio.CancelledError:
            self.cancel()
            raise
        if reading.cancelled():
            raise Cancelled("the call was cancelled")
        try:
            message = reading.result()
        except grpc.RpcError as error:
            raise self._reader.failure(error) from error
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._reader.answer(message)

    def cancel(self) -> None:
        self._call.cancel()


class _Reader:
    """Messages and failures of one call, as the client knows them."""

    def __init__(self, request: Request, timeout_s: float, url: str) -> None:
        self._request = request
        self._timeout_s = timeout_s
        self._url = url

    def answer(self, message: Any) -> Answer:
        if message.error_message:
            raise from_stream(message.error_message, self._url)
        return read_result(InferResult(message.infer_response), self._request)

    def failure(self, error: Any) -> FluxError:
        failure = from_triton(str(error.code()), error.details(), self._url)
        return no_answer(self._url, self._timeout_s) if isinstance(failure, DeadlineExceeded) else failure


def _called(stub: Any, request: Request, timeout_s: float, request_id: str) -> Any:
    metadata = (("traceparent", request.traceparent),) if request.traceparent else None
    messages = iter([_message(request, timeout_s, request_id)])
    return stub.ModelStreamInfer(messages, timeout=timeout_s, metadata=metadata)


def _message(request: Request, timeout_s: float, request_id: str) -> Any:
    message = service_pb2.ModelInferRequest(model_name=request.model, id=request_id)
    message.parameters["timeout"].int64_param = triton_timeout_us(timeout_s)
    for name, array in request.inputs.items():
        message.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        message.raw_input_contents.append(_raw(array))
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


def _raw(array: Array) -> bytes:
    data: bytes = serialize_byte_tensor(array).item() if array.dtype.hasobject else array.tobytes()
    return data
