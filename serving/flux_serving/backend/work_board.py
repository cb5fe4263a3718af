"""The work that each instance of a model has left, in a small file of each, which its siblings read.

The files are in the server's private folder. An instance writes its own, several times a second; one that has not
written for `DEAD_AFTER_S` does not count. Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from flux_serving.backend.server_folder import ServerFolder

#: Seconds after which an instance that has written nothing does not count.
DEAD_AFTER_S = 1.0
_PREFIX = "work-"
#: Written at, seconds left, images, room, device.
_RECORD = struct.Struct("<ddii32s")


class InstanceWork(NamedTuple):
    """seconds_left: until every image has taken its last step. jobs: images that wait or run. room: images it would
    still accept.
    """

    instance: str
    device: str
    seconds_left: float = 0.0
    jobs: int = 0
    room: int = 0


class WorkPost:
    """The file of one instance. Writing is a copy to shared memory, and so is reading: a reader may see the old value
    of one field beside the new value of another for an instant.
    """

    def __init__(self, folder: ServerFolder, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises CannotStart: the folder cannot be made, or others can enter it."""
        folder.make()
        self._folder = folder
        self._path = folder.path / f"{_PREFIX}{instance}"
        self._clock = clock
        with folder.opened() as opened:
            descriptor = os.open(
                f"{opened}/{self._path.name}", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        try:
            os.ftruncate(descriptor, _RECORD.size)
            self._memory = mmap.mmap(descriptor, _RECORD.size)
        finally:
            os.close(descriptor)

    def write(self, work: InstanceWork) -> None:
        device = work.device.encode()
        self._memory[:] = _RECORD.pack(self._clock(), work.seconds_left, work.jobs, work.room, device)

    def close(self) -> None:
        """The instance does not count any more."""
        self._path.unlink(missing_ok=True)
        self._memory.close()
        self._folder.remove()


class WorkBoard:
    """Reads what the instances of one server have written."""

    def __init__(self, folder: ServerFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock

    def read(self) -> list[InstanceWork]:
        """Of the instances that are alive, by name."""
        return sorted(self._living())

    def _living(self) -> Iterator[InstanceWork]:
        now = self._clock()
        for path in self._paths():
            with contextlib.suppress(OSError, struct.error):
                written, seconds_left, jobs, room, device = _RECORD.unpack(path.read_bytes())
                if now - written < DEAD_AFTER_S:
                    instance = path.name.removeprefix(_PREFIX)
                    yield InstanceWork(instance, device.rstrip(b"\0").decode(), seconds_left, jobs, room)

    def _paths(self) -> list[Path]:
        try:
            return list(self._folder.path.glob(f"{_PREFIX}*"))
        except OSError:
            return []
