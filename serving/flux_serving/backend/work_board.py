"""Shares the work that each instance of `flux_base` has left, through files that the other instances read.

The files are in the server's private folder. Each instance writes its file several times a second; an instance that has
not written for DEAD_AFTER_S seconds is ignored. Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from flux_serving.backend.server_folder import ServerFolder
from flux_serving.scheduling.job import JobLeft
from flux_serving.scheduling.placement import Backlog
from flux_serving.scheduling.step_costs import Costs

#: Seconds without a write after which an instance is considered dead.
DEAD_AFTER_S = 1.0
_PREFIX = "work-"
#: Time of writing, seconds left, costs of a step and of a token (_UNKNOWN: not known), room, number of jobs, device.
_HEADER = struct.Struct("<4d2i32s")
#: Group, tokens, steps, priority.
_JOB = struct.Struct("<Q3i")
_UNKNOWN = Costs(0.0, 0.0)


class InstanceWork(NamedTuple):
    """The work of one instance. seconds_left: until every image has run its last step. device: such as `cuda:7`."""

    instance: str
    device: str
    backlog: Backlog
    seconds_left: float


class WorkPost:
    """The file of one instance.

    Writing and reading copy shared memory without a lock, so a reader may see some jobs before a step and others after.
    """

    def __init__(
        self, folder: ServerFolder, instance: str, max_jobs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises CannotStart: the folder cannot be created, or other users can enter it."""
        folder.make()
        self._folder = folder
        self._path = folder.path / f"{_PREFIX}{instance}"
        self._max_jobs = max_jobs
        self._clock = clock
        size = _HEADER.size + max_jobs * _JOB.size
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with folder.opened() as opened:
            descriptor = os.open(f"{opened}/{self._path.name}", flags, 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def write(self, work: InstanceWork) -> None:
        jobs, costs, room = work.backlog
        jobs = jobs[: self._max_jobs]
        header = _HEADER.pack(
            self._clock(), work.seconds_left, *(costs or _UNKNOWN), room, len(jobs), work.device.encode()
        )
        entries = struct.pack("<" + len(jobs) * _JOB.format.removeprefix("<"), *chain.from_iterable(jobs))
        self._memory[: len(header) + len(entries)] = header + entries

    def close(self) -> None:
        """Remove the file, so that the others ignore this instance."""
        self._path.unlink(missing_ok=True)
        self._memory.close()
        self._folder.remove()


class WorkBoard:
    """Reads the files of all instances of a server."""

    def __init__(self, folder: ServerFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock

    def read(self, dead_after_s: float = DEAD_AFTER_S) -> list[InstanceWork]:
        """Returns the work of each live instance, sorted by name.

        dead_after_s: seconds without a write until it is dead.
        """
        return sorted(self._living(dead_after_s), key=lambda work: work.instance)

    def _living(self, dead_after_s: float) -> Iterator[InstanceWork]:
        now = self._clock()
        for path in self._paths():
            with contextlib.suppress(OSError, struct.error):
                record = path.read_bytes()
                written, seconds_left, overhead_s, token_s, room, count, device = _HEADER.unpack_from(record)
                if now - written < dead_after_s:
                    end = _HEADER.size + count * _JOB.size
                    jobs = [JobLeft(*fields) for fields in _JOB.iter_unpack(record[_HEADER.size : end])]
                    costs = Costs(overhead_s, token_s)
                    backlog = Backlog(jobs, None if costs == _UNKNOWN else costs, room)
                    instance = path.name.removeprefix(_PREFIX)
                    yield InstanceWork(instance, device.rstrip(b"\0").decode(), backlog, seconds_left)

    def _paths(self) -> list[Path]:
        try:
            return [self._folder.path / name for name in os.listdir(self._folder.path) if name.startswith(_PREFIX)]
        except OSError:
            return []
