"""State file of a launcher, which tells the probe what to check: `TMPDIR/flux-triton-serve-UID/PID.json`.

The folder belongs to one user. The launcher rejects a folder that other users can enter, and the probe ignores it.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flux_serving.launch.ending import started

#: Seconds that a restart of Triton may take before the probe considers it dead.
RESTART_S = 1800.0


@dataclass(frozen=True)
class LauncherState:
    """What a launcher serves.

    triton, gateway: host:port of Triton's HTTP and of the gateway; empty for no gateway.
    restarting_since: when a Triton that was ready before began to restart, in seconds since the epoch; 0: it is not
    restarting.
    """

    triton: str
    gateway: str = ""
    restarting_since: float = 0.0

    @property
    def is_restarting(self) -> bool:
        return self.restarting_since > 0 and time.time() - self.restarting_since < RESTART_S


class StateFile:
    """This launcher's state file. If it cannot be written, the probe needs the addresses as arguments."""

    def __init__(self) -> None:
        self._path = _folder() / f"{os.getpid()}.json"
        self._written: LauncherState | None = None

    def write(self, state: LauncherState) -> None:
        """Write the file if the state has changed.

        Raises OSError: the folder cannot be made or is another user's, or the disk is full.
        """
        if state == self._written:
            return
        with suppress(FileExistsError):
            self._path.parent.mkdir(mode=0o700)
        if not _is_own(self._path.parent):
            raise PermissionError(f"other users can enter {self._path.parent}")
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({**asdict(state), "started": started(os.getpid())}))
        part.replace(self._path)
        self._written = state

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def running_launchers() -> Iterator[LauncherState]:
    """Yield the states of this user's running launchers."""
    if not _is_own(_folder()):
        return
    for file in sorted(_folder().glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_text())
            # Process ids are reused, in a container at every start.
            if started(int(file.stem)) == told.pop("started"):
                yield LauncherState(**told)


def _folder() -> Path:
    return Path(tempfile.gettempdir(), f"flux-triton-serve-{os.geteuid()}")


def _is_own(folder: Path) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
