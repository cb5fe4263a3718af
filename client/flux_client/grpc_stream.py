"""Streams over gRPC: one request with many responses, and its cancellation.

tritonclient supports one synchronous stream for each client object, and its asynchronous streams raise raw gRPC errors.
Therefore, this module calls Triton's method through tritonclient's stub, and any number of streams share one channel.
On loopback, the first response arrives after 1.7 ms, compared with 8 ms for a tritonclient object per stream.

A second request on the same gRPC call, which reaches the same server, cancels a stream: CANCEL with the STREAM_TOKEN of
the first request. The server then ends both requests and the call. The gRPC call itself is cancelled only if a process
dies, a connection breaks, or the server does not respond within CANCEL_TIMEOUT_S, because Triton 2.51 has crashed on
such cancellations.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from flux_client.failures import from_stream, from_triton, no_answer
from flux_client.request import Request
from flux_client.transport import Answer
from flux_client.wire import read_result, triton_timeout_us
from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError
from flux_contract.internal_tensors import CANCEL, STREAM_TOKEN
from flux_contract.models import FLUX_STREAM
from flux_contract.tensors import Array, Tensor

#: Seconds for a cancelled stream to end before its gRPC call is cancelled.
CANCEL_TIMEOUT_S = 2.0
#: Response parameter with which Triton marks the last response of a request.
_FINAL = "triton_final_response"


class GrpcAnswers:
    """Responses of one stream. The constructor starts the call, and a thread reads its responses."""

    def __init__(self, stub: Any, request: Request, timeout_s: float, request_id: str, url: str) -> None:
        """stub: tritonclient's stub on a `grpc` channel."""
        self._reader = _AnswerReader(request, timeout_s, url)
        self._deadline = time.monotonic() + timeout_s
        self.call = StreamCall(stub, request, timeout_s, request_id)
        # This also runs when Python exits. A cancellation after that hangs: during interpreter shutdown, gRPC waits
        # forever for a lock held by one of its stopped threads (grpcio 1.85).
        weakref.finalize(self, self.call.cancel_and_wait_at_exit)

    def __next__(self) -> Answer:
        try:
            message = self.call.messages.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            self.cancel()
            raise self._reader.no_answer() from None
        # Put the end marker back, so that later calls find it.
        if message is None or isinstance(message, grpc.RpcError):
            self.call.messages.put(message)
        return self._reader.answer(message)

    def cancel(self) -> None:
        self.call.cancel()


class StreamCall:
    """One gRPC call. Its thread reads all messages, so that the call ends after a cancellation without a reader."""

    def __init__(self, stub: Any, request: Request, timeout_s: float, request_id: str) -> None:
        #: Messages in order, and at the end gRPC's error or None.
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._to_send: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._talk = _Talk(request, timeout_s, request_id)
        self._ended = threading.Event()
        self._lock = threading.RLock()
        self._is_cancelled = False
        self._to_send.put(self._talk.first)
        self._grpc_call = _called(stub, iter(self._to_send.get, None), request, timeout_s)
        self._timer = threading.Timer(CANCEL_TIMEOUT_S, self._grpc_call.cancel)
        self._timer.daemon = True
        threading.Thread(target=self._read, name="stream", daemon=True).start()

    def cancel(self) -> None:
        """Ask the server to end the stream, and do not wait for the end. Thread-safe."""
        with self._lock:
            if self._is_cancelled or self._ended.is_set():
                return
            self._is_cancelled = True
        self._timer.start()
        if self._talk.cancellation is not None:
            self._to_send.put(self._talk.cancellation)
        self._to_send.put(None)

    def has_ended_by_itself(self, timeout_s: float) -> bool:
        """Whether the call ends within timeout_s seconds without a cancellation by gRPC."""
        return self._ended.wait(timeout_s) and not self._grpc_call.cancelled()

    def wait(self, timeout_s: float) -> None:
        """Wait up to timeout_s seconds for the end of the call, then cancel it."""
        if not self._ended.wait(timeout_s):
            self._grpc_call.cancel()

    def cancel_and_wait_at_exit(self) -> None:
        """Cancel the call, and wait for its end only if Python exits."""
        self.cancel()
        if not threading.main_thread().is_alive():
            self.wait(CANCEL_TIMEOUT_S)

    def _read(self) -> None:
        last = None
        try:
            for message in self._grpc_call:
                if self._talk.is_for_the_caller(message):
                    self.messages.put(message)
                if _is_last(message):
                    self._to_send.put(None)
        except grpc.RpcError as error:
            last = error
        finally:
            self._ended.set()
            self._timer.cancel()
            self._to_send.put(None)
            self.messages.put(last)


class AsyncGrpcAnswers:
    """Responses of one stream on a `grpc.aio` channel. A task reads them."""

    def __init__(self, stub: Any, request: Request, timeout_s: float, request_id: str, url: str) -> None:
        self._reader = _AnswerReader(request, timeout_s, url)
        self.call = AsyncStreamCall(stub, request, timeout_s, request_id)
        self._deadline = asyncio.get_running_loop().time() + timeout_s

    async def __anext__(self) -> Answer:
        reading = asyncio.ensure_future(self.call.messages.get())
        left_s = self._deadline - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait([reading], timeout=max(0.0, left_s))
        except asyncio.CancelledError:
            reading.cancel()
            self.cancel()
            raise
        if not done:
            reading.cancel()
            self.cancel()
            raise self._reader.no_answer()
        message = reading.result()
        if message is None or isinstance(message, (grpc.RpcError, Cancelled)):
            self.call.messages.put_nowait(message)
        try:
            return self._reader.answer(message)
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self) -> None:
        self.call.cancel()


class AsyncStreamCall:
    """One gRPC call. Its task reads all messages, like the thread of `StreamCall`."""

    def __init__(self, stub: Any, request: Request, timeout_s: float, request_id: str) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self._to_send: asyncio.Queue[Any] = asyncio.Queue()
        self._talk = _Talk(request, timeout_s, request_id)
        self._loop = asyncio.get_running_loop()
        self._is_cancelled = False
        self._timer: asyncio.TimerHandle | None = None
        self._to_send.put_nowait(self._talk.first)
        self._grpc_call = _called(stub, self._requests(), request, timeout_s)
        self._reading = self._loop.create_task(self._read())

    def cancel(self) -> None:
        if self._is_cancelled or self._reading.done():
            return
        self._is_cancelled = True
        if self._loop.is_closed():
            return
        self._timer = self._loop.call_later(CANCEL_TIMEOUT_S, self._grpc_call.cancel)
        if self._talk.cancellation is not None:
            self._to_send.put_nowait(self._talk.cancellation)
        self._to_send.put_nowait(None)

    def on_end(self, callback: Callable[[AsyncStreamCall], object]) -> None:
        self._reading.add_done_callback(lambda _: callback(self))

    async def wait(self, timeout_s: float) -> None:
        """Wait up to timeout_s seconds for the end of the call, then cancel it."""
        await asyncio.wait([self._reading], timeout=timeout_s)
        self._grpc_call.cancel()

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self._to_send.get()) is not None:
            yield message

    async def _read(self) -> None:
        """Read messages until the call ends. gRPC raises CancelledError if its call was cancelled."""
        last: Exception | None = None
        try:
            while (message := await self._grpc_call.read()) is not grpc.aio.EOF:
                if self._talk.is_for_the_caller(message):
                    self.messages.put_nowait(message)
                if _is_last(message):
                    self._to_send.put_nowait(None)
        except grpc.RpcError as error:
            last = error
        except asyncio.CancelledError:
            last = Cancelled("the call was cancelled")
            self._grpc_call.cancel()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._to_send.put_nowait(None)
            self.messages.put_nowait(last)


class _Talk:
    """Messages to send: the request and, for flux_stream, the request that cancels it."""

    def __init__(self, request: Request, timeout_s: float, request_id: str) -> None:
        self.first = _message(request, timeout_s, request_id)
        self.cancellation: Any = None
        if request.model == FLUX_STREAM.name:
            token = secrets.token_urlsafe(16)
            _add_input(self.first, STREAM_TOKEN.name, _batch(STREAM_TOKEN, token))
            # The id distinguishes its responses from those of the first request.
            self.cancellation = service_pb2.ModelInferRequest(model_name=request.model, id=f"cancel {token}")
            _add_input(self.cancellation, CANCEL.name, _batch(CANCEL, token))

    def is_for_the_caller(self, message: Any) -> bool:
        return self.cancellation is None or message.infer_response.id != self.cancellation.id


class _AnswerReader:
    """Converts messages and failures of one call to responses and FluxErrors."""

    def __init__(self, request: Request, timeout_s: float, url: str) -> None:
        self._request = request
        self._timeout_s = timeout_s
        self._url = url

    def answer(self, message: Any) -> Answer:
        """Convert a message to a response. Raises StopIteration for None, the end, and errors as FluxError."""
        if message is None:
            raise StopIteration
        if isinstance(message, FluxError):
            raise message
        if isinstance(message, grpc.RpcError):
            raise self._failure(message) from message
        if message.error_message:
            raise from_stream(message.error_message, self._url)
        return read_result(InferResult(message.infer_response), self._request)

    def no_answer(self) -> DeadlineExceeded:
        return no_answer(self._url, self._timeout_s)

    def _failure(self, error: Any) -> FluxError:
        failure = from_triton(str(error.code()), error.details(), self._url)
        return self.no_answer() if isinstance(failure, DeadlineExceeded) else failure


def _called(stub: Any, messages: Any, request: Request, timeout_s: float) -> Any:
    """Start the call. gRPC's deadline is late enough for the server to end or cancel the stream first."""
    metadata = (("traceparent", request.traceparent),) if request.traceparent else None
    return stub.ModelStreamInfer(messages, timeout=timeout_s + 2 * CANCEL_TIMEOUT_S, metadata=metadata)


def _is_last(message: Any) -> bool:
    """Whether this is the last response of the request, so that the call can end."""
    return bool(message.error_message) or message.infer_response.parameters[_FINAL].bool_param


def _message(request: Request, timeout_s: float, request_id: str) -> Any:
    message = service_pb2.ModelInferRequest(model_name=request.model, id=request_id)
    message.parameters["timeout"].int64_param = triton_timeout_us(timeout_s)
    for name, array in request.inputs.items():
        _add_input(message, name, array)
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


def _add_input(message: Any, name: str, array: Array) -> None:
    message.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
    message.raw_input_contents.append(_raw(array))


def _batch(tensor: Tensor, value: str) -> Array:
    batch: Array = tensor.array(value)[None]
    return batch


def _raw(array: Array) -> bytes:
    data: bytes = serialize_byte_tensor(array).item() if array.dtype.hasobject else array.tobytes()
    return data
