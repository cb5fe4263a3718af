"""Hands a request of `flux_base` over to another instance, on its own connection of a Unix socket.

    caller    the request's tensors            ->
    taker                                      <-  "accepted", once there is room for its images
    taker                                      <-  the response: outputs, or an error
    caller    closes the connection            ->

Each side detects by a closed connection that the other has ended.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flux_contract.codes import error_of, with_code
from flux_contract.errors import Overloaded
from flux_contract.models import FLUX_BASE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.reply import Reply
from flux_serving.backend.server_folder import ServerFolder
from flux_serving.backend.tensor_message import pack_message, unpack_message
from flux_serving.backend.wire import message_and_code

log = logging.getLogger(__name__)

_PREFIX = "calls-"
_LENGTH = struct.Struct("<Q")
#: Seconds between two checks that a silent taker is alive.
_LOOK_S = 1.0
#: Seconds without a sign of life after which a taker counts as dead: before and after it has accepted the request.
_HESITATES_S, _GONE_S = 2.0, 30.0
_OUTPUTS = {tensor.name: tensor for tensor in FLUX_BASE.outputs}


class NotTaken(Exception):
    """The other instance did not accept the request and has not worked on it."""


class HandoverServer:
    """Accepts requests from the other instances of this server."""

    def __init__(
        self, folder: ServerFolder, instance: str, take: Callable[[Reply, Mapping[str, Array]], object]
    ) -> None:
        """take: starts the work and returns; it must not raise. Raises OSError: no socket can be made."""
        self._take = take
        self._path = folder.path / f"{_PREFIX}{instance}"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A killed process of the same name leaves its socket behind.
            self._path.unlink(missing_ok=True)
            with folder.opened() as opened:
                self._listening.bind(f"{opened}/{self._path.name}")
            self._listening.listen(128)
        except BaseException:
            self._listening.close()
            raise
        threading.Thread(target=self._accept, name="handover", daemon=True).start()

    def close(self) -> None:
        """Accept no further requests. Requests that were accepted are still answered."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            try:
                threading.Thread(target=self._serve, args=[connection], name="handover", daemon=True).start()
            except BaseException:
                # The caller keeps the request.
                log.exception("a request of another instance could not be accepted")
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        """Handle one request until its caller closes the connection."""
        try:
            values, about = unpack_message(_receive(connection))
            reply = HandoverReply(connection, about)
            try:
                self._take(reply, values)
            except BaseException as error:
                reply.refuse(error)
            del values
            with contextlib.suppress(OSError):
                connection.recv(1)
            reply.left()
        except (OSError, EOFError) as error:
            log.info("the instance that handed over a request has ended: %s", error)
        finally:
            connection.close()


class HandoverReply:
    """Sends the response to the instance that handed the request over."""

    def __init__(self, connection: socket.socket, about: Mapping[str, Any]) -> None:
        self.request_id: str = about["request_id"]
        self.wanted = frozenset[str](about["wanted"])
        self.timeout_us: int = about["timeout_us"]
        self._connection = connection
        self._is_awaited = True

    def is_awaited(self) -> bool:
        return self._is_awaited

    def left(self) -> None:
        """Record that the caller has closed the connection."""
        self._is_awaited = False

    def accepted(self) -> None:
        self._send({}, {"accepted": True})

    def answer(self, outputs: Mapping[Tensor, Array]) -> None:
        try:
            self._send({tensor.name: array for tensor, array in outputs.items() if tensor.name in self.wanted}, {})
        except Exception as error:
            self.refuse(error)

    def refuse(self, error: BaseException) -> None:
        try:
            self._send({}, {"error": with_code(*message_and_code(FLUX_BASE, self.request_id, error))})
        except BaseException:
            self._hang_up()
            raise

    def _send(self, values: Mapping[str, Array], about: Mapping[str, Any]) -> None:
        message = pack_message(values, about)
        try:
            _send(self._connection, message)
        except BaseException as error:
            # After an incomplete message the caller must not wait for more.
            self._hang_up()
            if not isinstance(error, OSError):
                raise
            log.info("the instance that handed over request %r has ended: %s", self.request_id, error)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class Handover:
    """One request that is handed over to another instance."""

    def __init__(
        self,
        folder: ServerFolder,
        instance: str,
        reply: Reply,
        values: Mapping[str, Array],
        is_alive: Callable[[str, float], bool],
    ) -> None:
        """instance: receives the request. values: the request's tensors, which are copied.

        is_alive: whether an instance has given a sign of life within this number of seconds.
        """
        about = {"request_id": reply.request_id, "wanted": sorted(reply.wanted), "timeout_us": reply.timeout_us}
        #: Kept until the other instance has accepted the request.
        self._message: bytes | None = pack_message(values, about)
        self._folder = folder
        self.instance = instance
        self._is_alive = is_alive
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_LOOK_S)

    @property
    def is_accepted(self) -> bool:
        return self._message is None

    def run(self) -> dict[Tensor, Array]:
        """Send the request and return its outputs.

        Raises NotTaken: the other instance did no work on it. Raises FluxError: the error of the other instance, or it
        has ended.
        """
        try:
            with self._socket:
                values, about = self._call()
        except (OSError, EOFError) as error:
            if self.is_accepted:
                raise Overloaded(f"{self.instance} ended while it worked on the request") from error
            raise NotTaken(str(error)) from error
        if "error" in about:
            failure = error_of(about["error"])
            if isinstance(failure, Overloaded) and not self.is_accepted:
                raise NotTaken(str(failure))
            raise failure
        return {_OUTPUTS[name]: array for name, array in values.items()}

    def values(self) -> dict[str, Array]:
        """Returns the request's tensors. Call it only after NotTaken."""
        assert self._message is not None
        return unpack_message(self._message)[0]

    def _call(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Send the request and receive the response.

        Raises OSError, EOFError: the other instance has ended, or `cancel` was called.
        """
        assert self._message is not None
        with self._folder.opened() as opened:
            self._socket.connect(f"{opened}/{_PREFIX}{self.instance}")
        _send(self._socket, self._message, self._check)
        while True:
            values, about = unpack_message(_receive(self._socket, self._check))
            if "accepted" not in about:
                return values, about
            self._message = None

    def cancel(self) -> None:
        """End `run`. Any thread may call it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _check(self) -> None:
        """Raises OSError: the taker is not alive."""
        if not self._is_alive(self.instance, _GONE_S if self.is_accepted else _HESITATES_S):
            raise OSError(f"{self.instance} does not respond")


def _send(connection: socket.socket, message: bytes, on_timeout: Callable[[], None] | None = None) -> None:
    """Send a message. on_timeout: called when a part takes longer than the socket's timeout; may raise OSError."""
    for part in (_LENGTH.pack(len(message)), message):
        left = memoryview(part)
        while left:
            try:
                left = left[connection.send(left) :]
            except TimeoutError:
                if on_timeout is None:
                    raise
                on_timeout()


def _receive(connection: socket.socket, on_timeout: Callable[[], None] | None = None) -> bytes:
    """Receive a message. Raises EOFError: the other side has closed the connection."""
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size, on_timeout))
    return bytes(_receive_exactly(connection, length, on_timeout))


def _receive_exactly(connection: socket.socket, size: int, on_timeout: Callable[[], None] | None) -> bytearray:
    received = bytearray(size)
    left = memoryview(received)
    while left:
        try:
            count = connection.recv_into(left)
        except TimeoutError:
            if on_timeout is None:
                raise
            on_timeout()
            continue
        if count == 0:
            raise EOFError("the connection was closed")
        left = left[count:]
    return received
