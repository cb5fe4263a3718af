"""Sends progress from `flux_base` to `flux_stream` as datagrams, through one Unix socket for each stream.

`flux_stream` creates the socket and passes its address, a random file name, through the ensemble. `flux_base` connects
to it and writes after every step without blocking. A closed socket means that the client no longer waits for the image.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import struct
import threading
from pathlib import Path
from typing import NamedTuple

from flux_contract.errors import InvalidRequest
from flux_serving.backend.server_folder import ServerFolder

#: Pixels of a preview's longest side: 256 x 256 RGB are 192 KiB, and a datagram may have 208 KiB (Linux' default).
MAX_PREVIEW_SIDE = 256

_HEADER = struct.Struct("<5i")
_MAX_DATAGRAM_BYTES = _HEADER.size + 3 * MAX_PREVIEW_SIDE**2
_ADDRESS = re.compile(r"[0-9a-f]{32}")


class PreviewMessage(NamedTuple):
    """The pixels of a preview. rgb: height * width * 3 bytes, row by row."""

    height: int
    width: int
    rgb: bytes


class ProgressMessage(NamedTuple):
    """The progress of one image. image: index of the image in the request."""

    image: int
    steps_done: int
    steps: int
    preview: PreviewMessage | None = None

    def to_datagram(self) -> bytes:
        height, width, rgb = self.preview or (0, 0, b"")
        return _HEADER.pack(self.image, self.steps_done, self.steps, height, width) + rgb


def read_datagram(datagram: bytes) -> ProgressMessage | None:
    """Parse a datagram of `to_datagram`. Returns None if it is malformed."""
    if len(datagram) < _HEADER.size:
        return None
    image, done, steps, height, width = _HEADER.unpack_from(datagram)
    rgb = datagram[_HEADER.size :]
    if min(image, done, steps, height, width) < 0 or len(rgb) != 3 * height * width:
        return None
    return ProgressMessage(image, done, steps, PreviewMessage(height, width, rgb) if rgb else None)


class ProgressFolder(ServerFolder):
    """The sockets of one server."""

    def listen(self) -> ProgressReceiver:
        """Create a socket. Raises OSError: it cannot be created."""
        address = secrets.token_hex(16)
        with contextlib.ExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            waking = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            waking.setblocking(False)
            with self.opened() as folder:
                listening.bind(f"{folder}/{address}")
                undo.callback((self.path / address).unlink)
                waking.connect(f"{folder}/{address}")
            undo.pop_all()
        return ProgressReceiver(self.path / address, listening, waking)

    def is_listening(self, address: str) -> bool:
        """Whether a receiver of `listen` is open at this address."""
        return _ADDRESS.fullmatch(address) is not None and os.path.lexists(self.path / address)

    def connect(self, address: str) -> ProgressSender:
        """Connect to a receiver. Raises InvalidRequest: the address is malformed or not a socket of this server."""
        if not _ADDRESS.fullmatch(address):
            raise InvalidRequest("is not a valid progress address")
        sending = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sending.setblocking(False)
            with self.opened() as folder:
                found = os.lstat(f"{folder}/{address}")
                if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
                    raise PermissionError(errno.EPERM, "not a socket of this server")
                sending.connect(f"{folder}/{address}")
        except OSError as error:
            sending.close()
            raise InvalidRequest(f"is not an open progress address: {error.strerror}") from None
        return ProgressSender(self.path / address, sending)


class ProgressReceiver:
    """The receiving end. One thread may receive; any thread may wake it."""

    def __init__(self, path: Path, listening: socket.socket, waking: socket.socket) -> None:
        self.address = path.name
        self._path = path
        self._listening = listening
        self._waking = waking

    def receive(self, timeout_s: float) -> ProgressMessage | None:
        """Returns the next message; None after timeout_s seconds, after `wake`, or for a malformed datagram.

        timeout_s: 0 returns only a message that has already arrived.
        """
        self._listening.settimeout(timeout_s)
        try:
            return read_datagram(self._listening.recv(_MAX_DATAGRAM_BYTES + 1))
        except (TimeoutError, BlockingIOError):
            return None

    def wake(self) -> None:
        """End a waiting `receive`. If the queue is full, no `receive` is waiting."""
        with contextlib.suppress(OSError):
            self._waking.send(b"")

    def close(self) -> None:
        """Close the socket, which tells the sender that no client waits. May be called twice."""
        self._path.unlink(missing_ok=True)
        self._listening.close()
        self._waking.close()


class ProgressSender:
    """The sending end of one request. Thread-safe; no method blocks."""

    def __init__(self, path: Path, sending: socket.socket) -> None:
        self._path = path
        self._sending = sending
        self._gone = False
        #: Keeps one thread from closing the socket while another sends; held only for a system call.
        self._lock = threading.Lock()

    def is_heard(self) -> bool:
        """Whether the receiver is still open.

        Checks the file system, because a waiting job has not sent anything yet.
        """
        if not self._gone and not os.path.lexists(self._path):
            self._gone = True
        return not self._gone

    def send(self, progress: ProgressMessage) -> None:
        """Send progress. If the receiver's queue is full, drop the preview first, then the progress."""
        with self._lock:
            if not self._try(progress) and progress.preview is not None:
                self._try(progress._replace(preview=None))

    def _try(self, progress: ProgressMessage) -> bool:
        """Try to send. Returns False if the queue is full."""
        if self._gone:
            return True
        try:
            self._sending.send(progress.to_datagram())
        except OSError as error:
            # Any other error, such as ECONNREFUSED, means that the receiver has closed.
            self._gone = error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE)
            return self._gone
        return True

    def close(self) -> None:
        with self._lock:
            self._gone = True
            self._sending.close()
