"""Ends a model's process when its parent, Triton, has ended.

Triton's own stub only checks that its parent's process id exists, which is still true for a zombie (2.51). In a
container, or after the launcher was killed, the models' processes would run forever.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds between two checks.
PAUSE_S = 0.5


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> threading.Thread:
    """Start a thread that calls `end` when the parent of this process has ended."""
    thread = threading.Thread(target=_watch, args=(os.getppid(), end), name="parent watch", daemon=True)
    thread.start()
    return thread


def _watch(parent: int, end: Callable[[], object]) -> None:
    while not is_gone(parent):
        time.sleep(PAUSE_S)
    end()


def is_gone(parent: int) -> bool:
    """Whether this process's former parent, with this id, has ended."""
    return os.getppid() != parent or _is_zombie(parent)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
