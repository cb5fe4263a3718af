"""Health of this process, which runs one instance of one model: ends the process if it can no longer serve."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from flux_contract.errors import FluxError, Overloaded
from flux_serving.scheduling.engine import Runner

log = logging.getLogger(__name__)

#: Exit status of a process that ends itself: EX_SOFTWARE of sysexits.h.
EXIT_STATUS = 70
#: Seconds for the last responses to reach Triton, and maximum seconds to answer open requests.
_ANSWER_S, _CLOSE_S = 1.0, 5.0
#: A step or a decoding is stuck if it runs longer than this number of seconds and than this multiple of the longest
#: one.
STUCK_AFTER_S, STUCK_FACTOR = 300.0, 20.0

WorkIn = TypeVar("WorkIn")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome")


class ProcessHealth:
    """The health of the process. Thread-safe; `end` starts a thread that ends the process."""

    def __init__(self, exit_process: Callable[[int], object] = os._exit) -> None:
        self._exit_process = exit_process
        self._reason: str | None = None
        self._lock = threading.Lock()
        self._probes: list[Callable[[], str | None]] = []
        self._closers: list[Callable[[], object]] = []

    def watch(self, probe: Callable[[], str | None], close: Callable[[], object]) -> None:
        """Add a model.

        probe: returns why it cannot serve, or None; must not block. close: answers its open requests.
        """
        self._probes.append(probe)
        self._closers.append(close)

    def check(self) -> None:
        """Raises Overloaded: the process is about to end, so it accepts no request."""
        if self._reason is not None:
            raise Overloaded(f"this model's process is ending and must be restarted: {self._reason}")

    @property
    def reason(self) -> str | None:
        """Why the process is about to end, or None."""
        return self._reason

    def is_ready(self) -> bool:
        """Whether the models can serve. Does not block."""
        reasons = [self._reason, *(probe() for probe in self._probes)]
        for reason in filter(None, reasons):
            log.error("not ready: %s", reason)
        return not any(reasons)

    def end(self, reason: str) -> None:
        """Answer open requests, then exit, so that the launcher or Kubernetes restarts the server."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        log.critical("%s; this process exits with status %d", reason, EXIT_STATUS)
        threading.Thread(target=self._end, name="end of the process", daemon=True).start()

    def _end(self) -> None:
        closing = threading.Thread(target=self._close, name="last answers", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        time.sleep(_ANSWER_S)
        self._exit_process(EXIT_STATUS)

    def _close(self) -> None:
        for close in self._closers:
            try:
                close()
            except Exception:
                log.exception("open requests were not answered")


HEALTH = ProcessHealth()


class WatchedRunner(Generic[WorkIn, Result]):
    """A runner that times its calls. `stuck` reports a call that takes far longer than any before."""

    def __init__(self, runner: Runner[WorkIn, Result], clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        #: By name of the call: when the running call began, and the seconds of the longest call so far.
        self._began: dict[str, float] = {}
        self._longest_s: dict[str, float] = {}

    def step(self, batch: Sequence[WorkIn]) -> Sequence[FluxError | None]:
        return self._timed("step", lambda: self._runner.step(batch))

    def results(self, works: Sequence[WorkIn]) -> Sequence[Result]:
        return self._timed("decoding", lambda: self._runner.results(works))

    def tokens(self, batch: Sequence[WorkIn]) -> int:
        return self._runner.tokens(batch)

    def results_at_once(self, work: WorkIn) -> int:
        return self._runner.results_at_once(work)

    def is_out_of_memory(self, error: Exception) -> bool:
        return self._runner.is_out_of_memory(error)

    def stuck(self) -> str | None:
        """Describe the call that is stuck, and for how long; None if none is."""
        for call, began in list(self._began.items()):
            seconds, longest_s = self._clock() - began, self._longest_s.get(call, 0.0)
            if seconds > max(STUCK_AFTER_S, STUCK_FACTOR * longest_s):
                return f"a {call} has run for {seconds:.0f} s; the longest one before took {longest_s:.1f} s"
        return None

    def _timed(self, call: str, run: Callable[[], Outcome]) -> Outcome:
        began = self._began[call] = self._clock()
        try:
            return run()
        finally:
            del self._began[call]
            self._longest_s[call] = max(self._longest_s.get(call, 0.0), self._clock() - began)
