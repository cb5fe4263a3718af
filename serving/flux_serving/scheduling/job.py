"""A job: the generation of one image."""

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
    """The generation of one image: a number of steps, and the work to run them on, which the scheduler never reads.

    finish is called exactly once, with the result or with the error that ended the job. If it raises, it is called once
    more, with the error that it raised.
    """

    work: Work
    #: Total number of steps, at least 1.
    steps: int
    finish: Callable[[Result | FluxError], None]
    #: Jobs of the same group can share steps: they have the same image grid and adapters.
    group: Hashable = None
    #: Identifies the group across all instances of the model, whereas `group` may be an object of this process.
    group_hash: int = 0
    #: Image and context tokens that one step of this job alone computes: number of rows times the longest row.
    tokens: int = 1
    #: Rows of the job in a batch: 1, or 2 with true CFG, and 1 more with a ControlNet.
    rows: int = 1
    #: Jobs with a higher priority run first.
    priority: int = 0
    #: Time on the engine's clock, in seconds, at which the request times out; None: never.
    deadline: float | None = None
    #: Called before every step. When it returns False, the job is cancelled.
    is_wanted: Callable[[], bool] = lambda: True
    #: Called with this job after every step, when `steps_done` already includes the step. It must not block or keep a
    #: reference to the job: a cycle would keep an ended job's tensors until the garbage collector's next full run.
    on_step: Callable[[Job[Work, Result]], object] = lambda job: None
    steps_done: int = 0

    @property
    def left(self) -> JobLeft:
        return JobLeft(self.group_hash, self.tokens, self.steps - self.steps_done, self.priority)

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row."""
        return -(-self.tokens // self.rows)
