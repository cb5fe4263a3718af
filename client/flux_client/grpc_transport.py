"""One Triton over gRPC, by tritonclient; `balanced_transport` has several."""

from __future__ import annotations

import asyncio
import itertools
import time
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import grpc
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2_grpc

from flux_client.failures import told_as_flux_errors
from flux_client.grpc_stream import CANCEL_TIMEOUT_S, AsyncGrpcAnswers, AsyncStreamCall, GrpcAnswers, StreamCall
from flux_client.request import Request
from flux_client.transport import Answer
from flux_client.wire import infer_arguments, read_result
from flux_contract.errors import FluxError

_MAX_MESSAGE_BYTES = 2**31 - 1
_CHANNEL_OPTIONS = [
    # gRPC's own limit is 4 MiB, less than one image.
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # All addresses of a name are used until `balanced_transport` has resolved it.
    ("grpc.lb_policy_name", "round_robin"),
    # Left alone, gRPC waits up to two minutes before it looks again for a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
_clients = itertools.count()


def _options() -> list[tuple[str, Any]]:
    """Of one client's channels, which so share a connection, and share none with other clients'.

    Channels of one process with the same options share connections, and with them the wait after a failed one: a new
    client would be told of a server's absence from before it came back.
    """
    return [*_CHANNEL_OPTIONS, ("flux_client.number", next(_clients))]


class GrpcTransport:
    """Any number of threads may call and stream at once.

    Streams have a channel of their own beside tritonclient's; gRPC gives both the same connection.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        """name: of the server in messages, by default the url."""
        self._url = name or url
        options = _options()
        self._channel = grpc.insecure_channel(url, options=options)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._client: Any = tritonclient.grpc.InferenceServerClient(url, channel_args=options)
        #: Those that have not ended; the thread of each holds it.
        self._calls: weakref.WeakSet[StreamCall] = weakref.WeakSet()

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        arguments = infer_arguments(tritonclient.grpc, request, timeout_s, request_id)
        with told_as_flux_errors(self._url, timeout_s):
            return read_result(self._client.infer(**arguments, client_timeout=timeout_s), request)

    def infer_later(self, request: Request, timeout_s: float, done: Callable[[Answer | FluxError], object]) -> None:
        """Send the request and return. done: is called with its outcome, by another thread."""

        def outcome(result: Any, error: Exception | None) -> Answer | FluxError:
            try:
                with told_as_flux_errors(self._url, timeout_s):
                    if error is not None:
                        raise error
                    return read_result(result, request)
            except FluxError as failure:
                return failure

        arguments = infer_arguments(tritonclient.grpc, request, timeout_s, request_id="")
        self._client.async_infer(
            **arguments, client_timeout=timeout_s, callback=lambda result, error: done(outcome(result, error))
        )

    def stream(self, request: Request, timeout_s: float, request_id: str) -> GrpcAnswers:
        answers = GrpcAnswers(self._stub, request, timeout_s, request_id, self._url)
        self._calls.add(answers.call)
        return answers

    def is_ready(self, model: str, timeout_s: float) -> bool:
        with told_as_flux_errors(self._url, timeout_s):
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))

    def cancel_streams(self) -> None:
        """Cancel all running streams without waiting for them."""
        for call in list(self._calls):
            call.cancel()

    def close(self) -> None:
        """Cancel what still streams. Waits until it has ended, for CANCEL_TIMEOUT_S at most."""
        limit = time.monotonic() + CANCEL_TIMEOUT_S
        calls = list(self._calls)
        self.cancel_streams()
        for call in calls:
            call.wait(max(0.0, limit - time.monotonic()))
        self._channel.close()
        self._client.close()


class AsyncGrpcTransport:
    """Belongs to the event loop that first calls it; streams have a channel of their own, as in `GrpcTransport`."""

    def __init__(self, url: str, name: str | None = None) -> None:
        """name: of the server in messages, by default the url."""
        self._target = url
        self._url = name or url
        self._options = _options()
        #: Those that have not ended.
        self._calls: set[AsyncStreamCall] = set()

    @cached_property
    def _client(self) -> Any:
        """Made at the first call, since it belongs to the loop then running."""
        return tritonclient.grpc.aio.InferenceServerClient(self._target, channel_args=self._options)

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._target, options=self._options)

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        arguments = infer_arguments(tritonclient.grpc, request, timeout_s, request_id)
        with told_as_flux_errors(self._url, timeout_s):
            return read_result(await self._client.infer(**arguments, client_timeout=timeout_s), request)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncGrpcAnswers:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        answers = AsyncGrpcAnswers(stub, request, timeout_s, request_id, self._url)
        self._calls.add(answers.call)
        answers.call.on_end(self._calls.discard)
        return answers

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        with told_as_flux_errors(self._url, timeout_s):
            return bool(await self._client.is_model_ready(model, client_timeout=timeout_s))

    async def close(self) -> None:
        """Cancel what still streams. Waits until it has ended, for CANCEL_TIMEOUT_S at most."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*(call.wait(CANCEL_TIMEOUT_S) for call in calls))
        if "_channel" in self.__dict__:
            await self._channel.close()
        if "_client" in self.__dict__:
            await self._client.close()
