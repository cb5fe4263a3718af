"""What every model's process tells of itself: that it lives, and how full the shared memory is."""

from __future__ import annotations

import logging
import os
import threading
import time

from flux_serving.backend.publishing import Published
from flux_serving.contract.metrics import HEARTBEAT, SHARED_MEMORY

#: Seconds between two beats.
_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class Heart:
    """Beats from `begin` to `stop`. Triton goes on publishing what a dead process said last, so a beat is a time.

    A model begins at the end of its `initialize`: what another thread published before ended Triton 2.51 at times.
    """

    def __init__(self, model: str, instance: str) -> None:
        published = Published(model, instance)
        self._published = published
        self._heartbeat = published.one(HEARTBEAT)
        self._memory = published.each(SHARED_MEMORY, ("size", "used"))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def begin(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """A model that failed to load never began."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_PAUSE_S):
            try:
                self._beat()
            except Exception:
                log.exception("a heartbeat was not published")

    def _beat(self) -> None:
        self._heartbeat.set(time.time())
        memory = os.statvfs("/dev/shm")
        self._memory["size"].set(memory.f_blocks * memory.f_frsize)
        self._memory["used"].set((memory.f_blocks - memory.f_bfree) * memory.f_frsize)
