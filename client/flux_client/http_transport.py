"""Transports to one Triton server over HTTP. tritonclient uses gevent in the synchronous one, aiohttp in the other.

Each call opens its own connection, because tritonclient binds timeouts to a client object, and a synchronous client
object to a thread. Each call thus has its own deadline and may come from any thread. A new connection takes a fraction
of a millisecond in a data centre; an image takes seconds.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import gevent
import tritonclient.http
import tritonclient.http.aio

from flux_client.failures import as_flux_errors, no_answer
from flux_client.request import Request
from flux_client.transport import Answer, Answers, AsyncAnswers
from flux_client.wire import infer_arguments, read_result
from flux_contract.errors import InvalidRequest


class HttpTransport:
    """Synchronous transport. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        arguments = infer_arguments(tritonclient.http, request, timeout_s, request_id)
        with self._connection(timeout_s) as client:
            return read_result(client.infer(**arguments), request)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> Answers:
        """Raises InvalidRequest: tritonclient does not support streams over HTTP."""
        raise no_streams()

    def is_ready(self, model: str, timeout_s: float) -> bool:
        with self._connection(timeout_s) as client:
            return bool(client.is_server_ready() and client.is_model_ready(model))

    def close(self) -> None:
        """Do nothing: no connection is open between calls."""

    @contextmanager
    def _connection(self, timeout_s: float) -> Iterator[Any]:
        """Open a connection. gevent.Timeout limits the call; tritonclient's timeouts limit one socket operation."""
        never_connected = (ConnectionRefusedError, socket.gaierror)
        broken = (OSError, http.client.HTTPException)
        with (
            as_flux_errors(self._url, timeout_s, never_connected=never_connected, broken=broken),
            gevent.Timeout(timeout_s, no_answer(self._url, timeout_s)),
            tritonclient.http.InferenceServerClient(
                self._url, connection_timeout=timeout_s, network_timeout=timeout_s
            ) as client,
        ):
            yield client


class AsyncHttpTransport:
    """Asynchronous transport, for tasks of any event loop.

    aiohttp emits a ResourceWarning, which Python ignores by default, for requests above 1 MiB.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        arguments = infer_arguments(tritonclient.http, request, timeout_s, request_id)
        async with self._connection(timeout_s) as client:
            return read_result(await client.infer(**arguments), request)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncAnswers:
        """Raises InvalidRequest: tritonclient does not support streams over HTTP."""
        raise no_streams()

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        async with self._connection(timeout_s) as client:
            return bool(await client.is_server_ready() and await client.is_model_ready(model))

    async def close(self) -> None:
        """Do nothing: no connection is open between calls."""

    @asynccontextmanager
    async def _connection(self, timeout_s: float) -> AsyncIterator[Any]:
        never_connected = (aiohttp.ClientConnectorError,)
        broken = (OSError, aiohttp.ClientError)
        with as_flux_errors(self._url, timeout_s, never_connected=never_connected, broken=broken):
            async with tritonclient.http.aio.InferenceServerClient(self._url, conn_timeout=timeout_s) as client:
                yield client


def no_streams() -> InvalidRequest:
    return InvalidRequest("streaming requires protocol='grpc'")
