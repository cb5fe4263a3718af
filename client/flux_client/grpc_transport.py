"""Transport to one Triton server over gRPC. `balanced_transport` supports several servers."""

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

from flux_client.failures import as_flux_errors
from flux_client.grpc_stream import CANCEL_TIMEOUT_S, AsyncGrpcAnswers, AsyncStreamCall, GrpcAnswers, StreamCall
from flux_client.request import Request
from flux_client.transport import Answer
from flux_client.wire import infer_arguments, read_result
from flux_contract.errors import FluxError

_MAX_MESSAGE_BYTES = 2**31 - 1
_CHANNEL_OPTIONS = [
    # gRPC's default limit of 4 MiB is less than one image.
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Use all addresses of a name until `balanced_transport` has resolved it.
    ("grpc.lb_policy_name", "round_robin"),
    # By default, gRPC waits up to two minutes before it reconnects to a server.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
_clients = itertools.count()


def _options() -> list[tuple[str, Any]]:
    """Return the options of one client's channels, so that they share a connection only with each other.

    Channels of one process with the same options share connections, including the back-off after a failure. Without
    distinct options, a new client would fail because of an earlier outage although the server is back.
    """
    return [*_CHANNEL_OPTIONS, ("flux_client.number", next(_clients))]


class GrpcTransport:
    """Transport to one server. Thread-safe.

    Streams use a separate channel from tritonclient's. Both share one connection.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        """name: the server's name in messages; the default is the url."""
        self._url = name or url
        options = _options()
        self._channel = grpc.insecure_channel(url, options=options)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._client: Any = tritonclient.grpc.InferenceServerClient(url, channel_args=options)
        #: Running calls. The thread of each call holds a reference to it.
        self._calls: weakref.WeakSet[StreamCall] = weakref.WeakSet()

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        arguments = infer_arguments(tritonclient.grpc, request, timeout_s, request_id)
        with as_flux_errors(self._url, timeout_s):
            return read_result(self._client.infer(**arguments, client_timeout=timeout_s), request)

    def infer_later(self, request: Request, timeout_s: float, done: Callable[[Answer | FluxError], object]) -> None:
        """Send the request and return at once. done: called with the outcome, by another thread."""

        def outcome(result: Any, error: Exception | None) -> Answer | FluxError:
            try:
                with as_flux_errors(self._url, timeout_s):
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
        with as_flux_errors(self._url, timeout_s):
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))

    def cancel_streams(self) -> None:
        """Cancel all running streams without waiting for them."""
        for call in list(self._calls):
            call.cancel()

    def close(self) -> None:
        """Cancel running streams, wait up to CANCEL_TIMEOUT_S for their end, and close the connection."""
        limit = time.monotonic() + CANCEL_TIMEOUT_S
        calls = list(self._calls)
        self.cancel_streams()
        for call in calls:
            call.wait(max(0.0, limit - time.monotonic()))
        self._channel.close()
        self._client.close()


class AsyncGrpcTransport:
    """Asynchronous transport to one server, bound to the event loop that first calls it.

    Streams use a separate channel, as in `GrpcTransport`.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        """name: the server's name in messages; the default is the url."""
        self._target = url
        self._url = name or url
        self._options = _options()
        #: Running calls.
        self._calls: set[AsyncStreamCall] = set()

    @cached_property
    def _client(self) -> Any:
        """Created by the first call, because it is bound to the running event loop."""
        return tritonclient.grpc.aio.InferenceServerClient(self._target, channel_args=self._options)

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._target, options=self._options)

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        arguments = infer_arguments(tritonclient.grpc, request, timeout_s, request_id)
        with as_flux_errors(self._url, timeout_s):
            return read_result(await self._client.infer(**arguments, client_timeout=timeout_s), request)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncGrpcAnswers:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        answers = AsyncGrpcAnswers(stub, request, timeout_s, request_id, self._url)
        self._calls.add(answers.call)
        answers.call.on_end(self._calls.discard)
        return answers

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        with as_flux_errors(self._url, timeout_s):
            return bool(await self._client.is_model_ready(model, client_timeout=timeout_s))

    async def close(self) -> None:
        """Cancel running streams, wait up to CANCEL_TIMEOUT_S for their end, and close the connection."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*(call.wait(CANCEL_TIMEOUT_S) for call in calls))
        if "_channel" in self.__dict__:
            await self._channel.close()
        if "_client" in self.__dict__:
            await self._client.close()
