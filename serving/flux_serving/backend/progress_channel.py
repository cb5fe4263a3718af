"""How progress travels from `flux_base` to `flux_stream`: datagrams through a Unix socket for each stream.

`flux_stream` makes the socket and sends its address, a bare random file name, through the ensemble; `flux_base`
connects to it and writes after every step without ever blocking. When the socket is closed, nobody waits for the
image.
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
    """rgb: height * width * 3 bytes, row by row."""

    height: int
    width: int
    rgb: bytes


class ProgressMessage(NamedTuple):
    """image: which of the request's images, from 0."""

    image: int
    steps_done: int
    steps: int
    preview: PreviewMessage | None = None

    def to_datagram(self) -> bytes:
        height, width, rgb = self.preview or (0, 0, b"")
        return _HEADER.pack(self.image, self.steps_done, self.steps, height, width) + rgb


def read_datagram(datagram: bytes) -> ProgressMessage | None:
    """None: it is none that `to_datagram` made."""
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
        """Raises OSError: no socket can be made."""
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
        """Whether `listen` made this address, and its receiver is not closed."""
        return _ADDRESS.fullmatch(address) is not None and os.path.lexists(self.path / address)

    def connect(self, address: str) -> ProgressSender:
        """Raises InvalidRequest: the address is malformed, or no socket of this server's own is there."""
        if not _ADDRESS.fullmatch(address):
            raise InvalidRequest("is no address that flux_stream made")
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
            raise InvalidRequest(f"is no address at which flux_stream listens: {error.strerror}") from None
        return ProgressSender(self.path / address, sending)


class ProgressReceiver:
    """The listening end; one thread receives, any may wake it."""

    def __init__(self, path: Path, listening: socket.socket, waking: socket.socket) -> None:
        self.address = path.name
        self._path = path
        self._listening = listening
        self._waking = waking

    def receive(self, timeout_s: float) -> ProgressMessage | None:
        """What comes next; None after timeout_s seconds, after `wake`, or for what is none.

        timeout_s: 0 takes only what is already there.
        """
        self._listening.settimeout(timeout_s)
        try:
            return read_datagram(self._listening.recv(_MAX_DATAGRAM_BYTES + 1))
        except (TimeoutError, BlockingIOError):
            return None

    def wake(self) -> None:
        """End the `receive` that waits. If the queue is full, none does."""
        with contextlib.suppress(OSError):
            self._waking.send(b"")

    def close(self) -> None:
        """From now on the sender knows that nobody waits. May be called twice."""
        self._path.unlink(missing_ok=True)
        self._listening.close()
        self._waking.close()


class ProgressSender:
    """The sending end, of one request. Any thread may use it, and nothing here blocks."""

    def __init__(self, path: Path, sending: socket.socket) -> None:
        self._path = path
        self._sending = sending
        self._gone = False
        #: One thread closes what another may be sending by; held for a system call.
        self._lock = threading.Lock()

    def is_heard(self) -> bool:
        """Whether somebody still waits. Asks the file system: a job that has not begun sends nothing."""
        if not self._gone and not os.path.lexists(self._path):
            self._gone = True
        return not self._gone

    def send(self, progress: ProgressMessage) -> None:
        """What finds the receiver's queue full is lost; a preview before the progress that it comes with."""
        with self._lock:
            if not self._try(progress) and progress.preview is not None:
                self._try(progress._replace(preview=None))

    def _try(self, progress: ProgressMessage) -> bool:
        """False: the queue had no room for it."""
        if self._gone:
            return True
        try:
            self._sending.send(progress.to_datagram())
        except OSError as error:
            # Otherwise the receiver is gone: ECONNREFUSED, say.
            self._gone = error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE)
            return self._gone
        return True

    def close(self) -> None:
        with self._lock:
            self._gone = True
            self._sending.close()
