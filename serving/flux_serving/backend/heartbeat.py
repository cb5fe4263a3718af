"""Publishes a model process's heartbeat, its private memory, and the shared memory in use."""

from __future__ import annotations

import logging
import os
import threading
import time
from itertools import count

from flux_contract.metrics import HEARTBEAT, PRIVATE_MEMORY, SHARED_MEMORY
from flux_serving.backend.memory import private_bytes, return_free_memory
from flux_serving.backend.parent import is_gone
from flux_serving.backend.publishing import Published

#: Seconds between two beats.
_PAUSE_S = 1.0
#: Seconds from `begin` to the thread's first beat. Twice, on a busy machine, Triton 2.51 never noticed that a model had
#: loaded, probably because another thread published before Triton had handled the result of `initialize`.
_FIRST_PAUSE_S = 5.0
#: Beats between two returns of freed memory to the system. Memory that is used again costs page faults
#: (docs/memory.md).
_BEATS_PER_RETURN = 60

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats from `begin` to `stop`.

    A beat is a time, because Triton keeps publishing the last values of a dead process. A model calls `begin` at the
    end of its `initialize`: publishing earlier from another thread sometimes crashed Triton 2.51.
    """

    def __init__(self, model: str, instance: str) -> None:
        self._parent = os.getppid()
        published = Published(model, instance)
        self._published = published
        self._heartbeat = published.one(HEARTBEAT)
        self._private_memory = published.one(PRIVATE_MEMORY)
        self._memory = published.each(SHARED_MEMORY, ("size", "used"))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def begin(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating. May be called without `begin`, because a model may fail to load."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        for beat in count(1):
            if self._stopped.wait(_FIRST_PAUSE_S if beat == 1 else _PAUSE_S):
                return
            try:
                self._beat()
                if beat % _BEATS_PER_RETURN == 0:
                    return_free_memory()
            except Exception:
                log.exception("a heartbeat was not published")

    def _beat(self) -> None:
        # Publishing to a Triton that has ended never returns and holds Python's lock, so no thread could end the
        # process.
        if is_gone(self._parent):
            os._exit(1)
        self._heartbeat.set(time.time())
        self._private_memory.set(private_bytes())
        memory = os.statvfs("/dev/shm")
        self._memory["size"].set(memory.f_blocks * memory.f_frsize)
        self._memory["used"].set((memory.f_blocks - memory.f_bfree) * memory.f_frsize)
