"""A job: one image to be made."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from flux_contract.errors import FluxError

Work = TypeVar("Work")
Result = TypeVar("Result")


class JobLeft(NamedTuple):
    """The remaining work of a job, as placement needs it. group: its `group_hash`. tokens: of one step."""

    group: int
    tokens: int
    steps: int
    priority: int = 0

    def goes_before(self, other: JobLeft) -> bool:
        """Whether the scheduler would run this job first if both had arrived at the same time."""
        return (-self.priority, self.tokens * self.steps) <= (-other.priority, other.tokens * other.steps)


@dataclass(eq=False)
class Job(Generic[Work, Result]):
    """Steps to run on something that the scheduler never looks into.

    finish is called exactly once, with the result or with the error that ended the job; if it raises, once more with
    what it raised.
    """

    work: Work
    #: Steps to run in all, at least 1.
    steps: int
    finish: Callable[[Result | FluxError], None]
    #: Jobs of the same group can share a step: those of one image grid.
    group: Hashable = None
    #: Identifies the group in all instances of the model, whereas `group` may be an object of this process.
    group_hash: int = 0
    #: Tokens, of image and context, that one step of this job alone computes: its rows times the longest of them.
    tokens: int = 1
    #: Rows of a step's batch that it takes: 2 with true CFG, and 1 more with a ControlNet.
    rows: int = 1
    #: Higher goes first.
    priority: int = 0
    #: Time on the engine's clock, in seconds, after which nobody waits for the result; None: for ever.
    deadline: float | None = None
    #: Asked before every step; once it answers False the job is dropped.
    is_wanted: Callable[[], bool] = lambda: True
    #: Called with this job after every step, with `steps_done` counted. It must not block, and must not hold the job:
    #: a reference cycle would keep the tensors of an ended job until the garbage collector's next full run.
    on_step: Callable[[Job[Work, Result]], object] = lambda job: None
    steps_done: int = 0

    @property
    def left(self) -> JobLeft:
        return JobLeft(self.group_hash, self.tokens, self.steps - self.steps_done, self.priority)

    @property
    def row_tokens(self) -> int:
        """Tokens of its longest row."""
        return -(-self.tokens // self.rows)
