"""Shares the work between the instances of `flux_base`: an instance can hand a request over to another one.

Triton gives a request to any instance that is not in `execute`. Because `execute` returns before the work begins, the
instances get requests in turn, regardless of the work that each has left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from flux_contract.tensors import Array
from flux_serving.backend.handover import Handover, HandoverServer, NotTaken
from flux_serving.backend.health import HEALTH
from flux_serving.backend.reply import Reply, refuse_surely
from flux_serving.backend.server_folder import ServerFolder
from flux_serving.backend.work_board import InstanceWork, WorkBoard, WorkPost
from flux_serving.scheduling.job import JobLeft
from flux_serving.scheduling.observer import Observer
from flux_serving.scheduling.placement import Backlog, choose_instance, seconds_left
from flux_serving.scheduling.scheduler import EngineLoad, Limits
from flux_serving.scheduling.step_costs import Costs, StepCosts

log = logging.getLogger(__name__)

#: Seconds between two writes while nothing changes.
_BEAT_S = 0.2
#: Seconds without a step after which the measured costs are forgotten: a slow instance may be fast again.
_COSTS_LIFE_S = 60.0


class WorkSharing(Observer):
    """Publishes the work that this instance has left, hands requests over to other instances, and accepts theirs."""

    def __init__(
        self,
        folder: ServerFolder,
        instance: str,
        device: str,
        limits: Limits,
        take: Callable[[Reply, Mapping[str, Array]], object],
        on_handed_over: Callable[[int], object] = lambda images: None,
    ) -> None:
        """take: starts the work on a request in this instance; must not raise.

        on_handed_over: called with the number of images that another instance has generated.

        Raises CannotStart: as ServerFolder.make.
        """
        self._folder = folder
        self._limits = limits
        self._take = take
        self._on_handed_over = on_handed_over
        self._costs = StepCosts()
        self._stepped_s = time.monotonic()
        self._load = EngineLoad()
        #: Jobs of accepted requests that are not in the engine yet, because their adapters are being read.
        self._expected: dict[object, Sequence[JobLeft]] = {}
        #: Requests that other instances work on, or that are on their way there.
        self._handed_over: dict[Handover, Sequence[JobLeft]] = {}
        self._post = WorkPost(folder, instance, limits.max_jobs)
        self._work = InstanceWork(instance, device, Backlog((), self._costs.latest, 0), 0.0)
        self._board = WorkBoard(folder)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="work left", daemon=True)
        self._server: HandoverServer | None = None

    def begin(self, load: EngineLoad) -> None:
        """Start sharing work. load: of this instance's engine. Raises OSError: the socket cannot be created."""
        self._server = HandoverServer(self._folder, self._work.instance, self._take)
        self.queued(load)
        self._beats.start()

    def close(self) -> None:
        """Stop sharing work. Open requests that were handed over are rejected."""
        self._closed.set()
        if self._server is not None:
            self._server.close()
            self._beats.join()
        self.cancel()
        self._post.close()

    def cancel(self) -> None:
        """Stop waiting for other instances."""
        with self._lock:
            handed_over = list(self._handed_over)
        for handover in handed_over:
            handover.cancel()

    @property
    def seconds_left(self) -> float:
        """Seconds until every image of this instance has run its last step."""
        return self._work.seconds_left

    def stepped(self, rows: int, tokens: int, step_s: float) -> None:
        self._stepped_s = time.monotonic()
        self._costs.observe(tokens, step_s)

    def queued(self, load: EngineLoad) -> None:
        with self._lock:
            self._load = load
            self._write()

    def expect(self, request: object, jobs: Sequence[JobLeft]) -> None:
        """Count these jobs, which the engine will receive later, until `arrived`."""
        with self._lock:
            self._expected[request] = jobs
            self._write()

    def arrived(self, request: object) -> None:
        """Stop counting the jobs of `expect`: the engine has received them, or the request has failed."""
        with self._lock:
            if self._expected.pop(request, None) is not None:
                self._write()

    def hand_over(self, reply: Reply, values: Mapping[str, Array], jobs_of: Callable[[], Sequence[JobLeft]]) -> bool:
        """Hand the request over if another instance is better. Returns whether it was handed over.

        values: the request's tensors. jobs_of: returns its jobs, all alike; empty if the request takes no step.
        """
        others = [work for work in self._board.read() if work.instance != self._work.instance]
        if not others or not (jobs := jobs_of()):
            return False
        own = self._work
        backlogs = {work.instance: self._with_handed_over(work) for work in others} | {own.instance: own.backlog}
        chosen = choose_instance(own.instance, backlogs, jobs, self._limits)
        if chosen == own.instance:
            return False
        handover = Handover(self._folder, chosen, reply, values, self._is_alive)
        with self._lock:
            self._handed_over[handover] = jobs
        try:
            threading.Thread(target=self._follow, args=[handover, reply], name="handed over", daemon=True).start()
        except BaseException:
            with self._lock:
                del self._handed_over[handover]
            raise
        return True

    def _with_handed_over(self, work: InstanceWork) -> Backlog:
        """Returns the backlog of an instance, including requests that are being handed over to it."""
        with self._lock:
            given = [
                job
                for handover, jobs in self._handed_over.items()
                if handover.instance == work.instance and not handover.is_accepted
                for job in jobs
            ]
        jobs, costs, room = work.backlog
        return Backlog([*jobs, *given], costs, room - len(given))

    def _follow(self, handover: Handover, reply: Reply) -> None:
        """Wait for the other instance and pass its response on. If it did not accept the request, run it here."""
        try:
            try:
                outputs = handover.run()
            finally:
                with self._lock:
                    jobs = self._handed_over.pop(handover)
            self._on_handed_over(len(jobs))
            reply.answer(outputs)
        except NotTaken as error:
            log.info("request %r was not handed over: %s", reply.request_id, error)
            self._take(reply, handover.values())
        except BaseException as error:
            try:
                refuse_surely(reply, error)
            except BaseException:  # The call of `refuse_surely` itself failed.
                reply.refuse(error)

    def _is_alive(self, instance: str, seconds: float) -> bool:
        return any(work.instance == instance for work in self._board.read(seconds))

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_S):
            with self._lock:
                if time.monotonic() - self._stepped_s > _COSTS_LIFE_S and not self._load.jobs:
                    self._costs.forget()
                self._write()

    def _write(self) -> None:
        """Publish the work left. Does nothing if the process is about to end, so that the others consider it dead."""
        if HEALTH.reason is not None or self._closed.is_set():
            return
        jobs = [*self._load.jobs, *(job for jobs in self._expected.values() for job in jobs)]
        room = self._load.room - (len(jobs) - len(self._load.jobs))
        costs = self._costs.latest
        backlog = Backlog(jobs, costs, room)
        self._work = self._work._replace(
            backlog=backlog, seconds_left=seconds_left(jobs, costs or Costs(), self._limits)
        )
        self._post.write(self._work)
