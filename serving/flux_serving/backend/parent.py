"""Ends a model's process when Triton, its parent, is gone.

Triton's own stub looks whether its parent's process id exists, which a parent that nobody collected still has (2.51):
in a container, or under a launcher that was killed, the models' processes would run for ever.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds between two looks.
PAUSE_S = 0.5


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> threading.Thread:
    """From now on a thread calls `end` when the parent of this process has ended."""
    thread = threading.Thread(target=_watch, args=(os.getppid(), end), name="parent watch", daemon=True)
    thread.start()
    return thread


def _watch(parent: int, end: Callable[[], object]) -> None:
    while not is_gone(parent):
        time.sleep(PAUSE_S)
    end()


def is_gone(parent: int) -> bool:
    """Whether the process with this id, which was the parent of this one, has ended."""
    return os.getppid() != parent or _is_zombie(parent)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
