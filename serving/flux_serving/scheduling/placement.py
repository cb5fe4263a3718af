"""Chooses the instance for a new request: the one where the request increases the sum of all delays least.

A new job takes time itself and delays others. Both depend on the scheduler's order (short jobs first, jobs of one
group share steps) and on the cost of a step in that instance. If the overhead is most of the cost of a step, as with
small images, a job joins other jobs of its group. If the tokens are most of the cost, the job goes to the instance with
less work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flux_serving.scheduling.job import JobLeft
from flux_serving.scheduling.scheduler import Limits
from flux_serving.scheduling.step_costs import Costs

#: Minimum delay in seconds that another instance must save, about the cost of a handover.
_HANDOVER_S = 0.003
#: An instance counts as equally fast as the fastest one if its steps take at most this many times as long. On equal
#: machines the measured costs vary by this much, and those of an idle instance are old.
_EQUALLY_FAST = 1.5


class Backlog(NamedTuple):
    """The work of one instance. costs: None if it has taken no step recently. room: number of jobs that it accepts."""

    jobs: Sequence[JobLeft]
    costs: Costs | None
    room: int

    def levelled(self, fastest: Costs, tokens: int) -> Backlog:
        """Returns this backlog with the costs of the fastest instance, if both are equally fast. tokens: of a step.

        An instance with unknown costs counts as equally fast: it gets work, and so its costs become known.
        """
        is_as_fast = self.costs is None or self.costs.step_s(tokens) <= _EQUALLY_FAST * fastest.step_s(tokens)
        return self._replace(costs=fastest) if is_as_fast else self


def choose_instance(own: str, backlogs: Mapping[str, Backlog], new: Sequence[JobLeft], limits: Limits) -> str:
    """Returns the instance for the jobs of one request, which are all of the same size.

    own: the instance that decides. It keeps the jobs if no other instance is better, or if none has room.
    """
    together = JobLeft(new[0].group, sum(job.tokens for job in new), new[0].steps, new[0].priority)
    known = [backlog.costs for backlog in backlogs.values() if backlog.costs is not None]
    fastest = min(known, key=lambda costs: costs.step_s(together.tokens), default=Costs())
    delays_s = {
        name: added_delay_s(backlog.levelled(fastest, together.tokens), together, limits)
        for name, backlog in backlogs.items()
        if backlog.room >= len(new)
    }
    best = min(delays_s, key=delays_s.__getitem__, default=own)
    is_worth_it = own not in delays_s or delays_s[best] + _HANDOVER_S < delays_s[own]
    return best if is_worth_it else own


def added_delay_s(backlog: Backlog, new: JobLeft, limits: Limits) -> float:
    """Returns the seconds until the new job is done, plus the seconds by which it delays each of the other jobs."""
    costs = backlog.costs or Costs()
    own_s = new.steps * costs.step_s(new.tokens)
    total_s = own_s
    same_group = [new]
    before = []
    for job in backlog.jobs:
        if job.group == new.group:
            # In a shared step, each of the two jobs makes the step longer for the other.
            shared = JobLeft(job.group, job.tokens, min(job.steps, new.steps))
            total_s += costs.token_s * shared.steps * (job.tokens + new.tokens)
            same_group.append(shared)
        elif job.goes_before(new):
            before.append(job)
        else:
            total_s += own_s
    # Additional steps, if not all rows of the group fit into the steps of the new job.
    total_s += costs.overhead_s * (steps_of(same_group, limits) - new.steps)
    return total_s + seconds_left(before, costs, limits)


def seconds_left(jobs: Iterable[JobLeft], costs: Costs, limits: Limits) -> float:
    """Returns the seconds until all of these jobs have taken their last step. Jobs of a group share steps."""
    groups = defaultdict(list)
    for job in jobs:
        groups[job.group].append(job)
    steps = sum(steps_of(group, limits) for group in groups.values())
    tokens = sum(job.tokens * job.steps for group in groups.values() for job in group)
    return costs.overhead_s * steps + costs.token_s * tokens


def steps_of(group: Sequence[JobLeft], limits: Limits) -> float:
    """Returns the number of steps until all jobs of a group are done.

    It is the number of steps of the longest job, or more if the rows of all jobs fill more steps.
    """
    filled = sum(job.steps * max(1 / limits.max_rows, min(1.0, job.tokens / limits.step_tokens)) for job in group)
    return max(filled, max(job.steps for job in group))
