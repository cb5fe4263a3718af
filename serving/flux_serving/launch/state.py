"""What a launcher serves, in a file that the probe reads: `TMPDIR/flux-triton-serve-UID/PID.json`.

The folder belongs to one user; the launcher refuses one that others can enter, and the probe ignores it.
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

#: Seconds that a restart of Triton may take before the probe takes it for dead.
RESTART_S = 1800.0


@dataclass(frozen=True)
class LauncherState:
    """triton, gateway: host:port of Triton's HTTP and of the gateway; the gateway's is empty where there is none.

    restarting_since: seconds of the epoch, while a Triton that was ready before starts again; 0: it does not.
    """

    triton: str
    gateway: str = ""
    restarting_since: float = 0.0

    @property
    def is_restarting(self) -> bool:
        return self.restarting_since > 0 and time.time() - self.restarting_since < RESTART_S


class StateFile:
    """This launcher's file, which `remove` removes. Where it cannot be written, the probe uses its own arguments."""

    def __init__(self) -> None:
        self._path = _folder() / f"{os.getpid()}.json"
        self._written: LauncherState | None = None

    def write(self, state: LauncherState) -> None:
        """Raises OSError: the folder cannot be made or is another user's, or the disk is full."""
        if state == self._written:
            return
        with suppress(FileExistsError):
            self._path.parent.mkdir(mode=0o700)
        if not _is_own(self._path.parent):
            raise PermissionError(f"{self._path.parent} can be entered by others")
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({**asdict(state), "started": started(os.getpid())}))
        part.replace(self._path)
        self._written = state

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def running_launchers() -> Iterator[LauncherState]:
    """Those of this user that run."""
    if not _is_own(_folder()):
        return
    for file in sorted(_folder().glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_text())
            # Process ids come again, in a container at every start.
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
