"""How the instances of `flux_base` share the work: one with more left than another stays in `execute` for a while.

Triton gives a request to an instance that is not in `execute`. Since `execute` returns before the work begins, it would
give them in turn, whatever the work is. Staying delays no answer: the engine's threads send them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flux_serving.backend.health import HEALTH
from flux_serving.backend.server_folder import ServerFolder
from flux_serving.backend.work_board import InstanceWork, WorkBoard, WorkPost
from flux_serving.scheduling.observer import Observer
from flux_serving.scheduling.placement import Backlog, should_hold
from flux_serving.scheduling.scheduler import Load
from flux_serving.scheduling.step_costs import StepCosts

#: Seconds between two times that the own work is written though nothing has changed.
_BEAT_S = 0.2
#: Seconds between two looks at the siblings' work while an instance holds.
_LOOK_S = 0.002
#: Seconds for which one request holds at most, should a sibling live and yet take no request.
MAX_HOLD_S = 10.0


class WorkSharing(Observer):
    """Of one instance: publishes the work that it has left, and holds while a sibling has less."""

    def __init__(
        self, folder: ServerFolder, instance: str, device: str, observe_held: Callable[[float], object]
    ) -> None:
        """observe_held: takes the seconds for which a request held. Raises CannotStart: as ServerFolder.make."""
        self._costs = StepCosts()
        self._work = InstanceWork(instance, device)
        self._post = WorkPost(folder, instance)
        self._board = WorkBoard(folder)
        self._observe_held = observe_held
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="work left", daemon=True)

    def begin(self, load: Load) -> None:
        """From now on the instance counts."""
        self.queued(load)
        self._beats.start()

    @property
    def seconds_left(self) -> float:
        return self._work.seconds_left

    def close(self) -> None:
        self._closed.set()
        if self._beats.is_alive():
            self._beats.join()
        self._post.close()

    def stepped(self, rows: int, tokens: int, step_s: float) -> None:
        self._costs.observe(tokens, step_s)

    def queued(self, load: Load) -> None:
        work = self._work._replace(
            seconds_left=self._costs.seconds(load.left), jobs=load.running + load.waiting, room=load.room
        )
        with self._lock:
            self._work = work
        self._write()

    def hold(self) -> None:
        """Return when no living sibling has less work left; after MAX_HOLD_S at the latest."""
        started = time.monotonic()
        while not self._closed.is_set() and self._should_hold() and time.monotonic() - started < MAX_HOLD_S:
            time.sleep(_LOOK_S)
        self._observe_held(time.monotonic() - started)

    def _should_hold(self) -> bool:
        own = self._work
        siblings = [
            Backlog(work.seconds_left, work.room) for work in self._board.read() if work.instance != own.instance
        ]
        return should_hold(Backlog(own.seconds_left, own.room), siblings)

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_S):
            self._write()

    def _write(self) -> None:
        """A process that cannot go on serving lets its entry age."""
        with self._lock:
            if HEALTH.reason is None and not self._closed.is_set():
                self._post.write(self._work)
