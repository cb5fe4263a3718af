"""What the engine tells of its work, to whoever counts it. Nothing here may block: the engine's threads call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flux_contract.errors import FluxError
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import EngineLoad


class Observer:
    """Counts nothing; the base of those that do."""

    def queued(self, load: EngineLoad) -> None:
        """When jobs were accepted, and after every step, or where jobs were dropped instead of one."""

    def began(self, job: Job[Any, Any], queue_s: float) -> None:
        """A job takes its first step, queue_s seconds after it was submitted."""

    def stepped(self, rows: int, tokens: int, step_s: float) -> None:
        """A step of so many jobs took step_s seconds. tokens: that it computed, padding included."""

    def decoded(self, images: int, decode_s: float) -> None:
        """So many finished jobs were turned into results together, in decode_s seconds."""

    def ended(self, job: Job[Any, Any], outcome: FluxError | None, total_s: float) -> None:
        """A job ended, total_s seconds after it was submitted: well (None), or with an error."""


class Observers(Observer):
    """Passes each event on to several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def queued(self, load: EngineLoad) -> None:
        self._tell(lambda observer: observer.queued(load))

    def began(self, job: Job[Any, Any], queue_s: float) -> None:
        self._tell(lambda observer: observer.began(job, queue_s))

    def stepped(self, rows: int, tokens: int, step_s: float) -> None:
        self._tell(lambda observer: observer.stepped(rows, tokens, step_s))

    def decoded(self, images: int, decode_s: float) -> None:
        self._tell(lambda observer: observer.decoded(images, decode_s))

    def ended(self, job: Job[Any, Any], outcome: FluxError | None, total_s: float) -> None:
        self._tell(lambda observer: observer.ended(job, outcome, total_s))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            tell(observer)
