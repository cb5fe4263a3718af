"""Observers of the engine, for metrics and logs. The engine's threads call them, so they must not block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flux_contract.errors import FluxError
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import EngineLoad


class Observer:
    """Base class of observers. Its methods do nothing."""

    def queued(self, load: EngineLoad) -> None:
        """The load may have changed: jobs were accepted, a step ended or jobs were dropped."""

    def began(self, job: Job[Any, Any], queue_s: float) -> None:
        """A job starts its first step, queue_s seconds after it was submitted."""

    def stepped(self, rows: int, tokens: int, step_s: float) -> None:
        """A step took step_s seconds. rows: number of jobs. tokens: computed by the step, padding included."""

    def decoded(self, images: int, decode_s: float) -> None:
        """The results of this many jobs were decoded together, in decode_s seconds."""

    def ended(self, job: Job[Any, Any], outcome: FluxError | None, total_s: float) -> None:
        """A job ended, total_s seconds after it was submitted. outcome: its error; None if it succeeded."""


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
