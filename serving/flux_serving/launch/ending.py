"""Ends a process group. Run as a script, it does so when the launcher was killed (see guardian.py).

    python ending.py PIPE GROUP GRACE_S PREFIX FOLDER

It imports nothing from this project, so that the script starts in milliseconds and uses little memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

#: Bytes that the launcher writes to the pipe: the server is ready; the launcher itself has cleaned up.
READY, DONE = b"r", b"d"
#: Seconds for which a stopping Triton may unload models without one of their processes ending. Triton 2.51 never
#: releases a gRPC stream that is cancelled while its final response is being written. The stream keeps a reference to
#: flux_stream, so Triton would wait for the whole exit timeout.
UNLOAD_S = 3.0
#: Seconds to wait for a killed group to end.
_KILL_S = 15.0
_PAUSE_S = 0.1


def wait_for_server(group: int, timeout_s: float) -> None:
    """Return when the leader of the group, a stopping Triton, has ended or has nothing left to do.

    A stopping Triton first waits for the running requests and then unloads the models. Once the processes of models
    begin to end, no request is running. If no further process then ends within UNLOAD_S, Triton has nothing left to do.
    """
    until = time.monotonic() + timeout_s
    most = count = len(list(members(group)))
    changed = time.monotonic()
    while is_running(group) and (now := time.monotonic()) < until:
        if (found := len(list(members(group)))) != count:
            count, changed = found, now
            most = max(most, count)
        if count < most and now - changed > UNLOAD_S:
            return
        time.sleep(_PAUSE_S)


def kill_group(group: int) -> None:
    """Kill every process of the group. Return when all have ended, or after _KILL_S."""
    until = time.monotonic() + _KILL_S
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, signal.SIGKILL)
            # In a container this may be process 1, which adopts orphans and must reap them.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG) != (0, 0):
                    pass
            if time.monotonic() > until or not list(members(group)):
                return
            time.sleep(_PAUSE_S / 2)


def remove_leftovers(prefix: str, folder: str) -> None:
    """Remove the shared-memory regions whose names start with prefix, and the server's temporary folder."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def members(group: int) -> Iterator[int]:
    """Yield the process ids of the group, without zombies, which may never be reaped in a container."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (fields := _fields(int(entry))) and int(fields[2]) == group and fields[0] not in "ZX":
            yield int(entry)


def is_running(pid: int) -> bool:
    fields = _fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def started(pid: int) -> str:
    """Returns when the process started, in clock ticks since boot; empty if there is no such process."""
    fields = _fields(pid)
    return fields[19] if fields else ""


def _fields(pid: int) -> list[str]:
    """Returns the fields of `/proc/PID/stat` from the state on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def guard(pipe: int, group: int, grace_s: float, prefix: str, folder: str) -> None:
    """Wait for the launcher to write DONE. If it dies before that, end the group and remove its files."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    was_ready = False
    while word := os.read(pipe, 1):
        if word == DONE:
            return
        was_ready = True
    # Triton received SIGTERM when the launcher died. A Triton that is still loading would first finish loading.
    if was_ready:
        wait_for_server(group, grace_s)
    kill_group(group)
    remove_leftovers(prefix, folder)


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5])
