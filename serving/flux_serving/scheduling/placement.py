"""Which instance makes a new image: the one where the sum of all delays grows least.

A new job takes its own time, and delays others. Both follow from the scheduler's order (short jobs first, jobs of one
group share steps) and from what steps cost in that instance. So a job joins its own group where the overhead of a step
is most of its cost, as with small images, and goes to the instance with less to do where the tokens are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flux_serving.scheduling.job import JobLeft
from flux_serving.scheduling.scheduler import Limits
from flux_serving.scheduling.step_costs import Costs

#: Seconds of delay that another instance must save: about what handing a request over costs.
_HANDOVER_S = 0.003
#: Instances whose steps take at most this many times as long as the fastest one's count as equally fast: on equal
#: machines what is measured differs by that much from minute to minute, and longer where an instance was idle.
_EQUALLY_FAST = 1.5


class Backlog(NamedTuple):
    """Of one instance. room: jobs that it still accepts."""

    jobs: Sequence[JobLeft]
    costs: Costs
    room: int

    def levelled(self, fastest: Costs, tokens: int) -> Backlog:
        """With the costs of the fastest instance, if this one is as fast in steps of so many tokens."""
        is_as_fast = self.costs.step_s(tokens) <= _EQUALLY_FAST * fastest.step_s(tokens)
        return self._replace(costs=fastest) if is_as_fast else self


def choose_instance(own: str, backlogs: Mapping[str, Backlog], new: Sequence[JobLeft], limits: Limits) -> str:
    """The instance that the jobs of one request go to, which are all alike.

    own: the instance that decides, which keeps them when it is as good as any, or when no instance has room.
    """
    together = JobLeft(new[0].group, sum(job.tokens for job in new), new[0].steps, new[0].priority)
    fastest = min((backlog.costs for backlog in backlogs.values()), key=lambda costs: costs.step_s(together.tokens))
    delays_s = {
        name: added_delay_s(backlog.levelled(fastest, together.tokens), together, limits)
        for name, backlog in backlogs.items()
        if backlog.room >= len(new)
    }
    best = min(delays_s, key=delays_s.__getitem__, default=own)
    is_worth_it = own not in delays_s or delays_s[best] + _HANDOVER_S < delays_s[own]
    return best if is_worth_it else own


def added_delay_s(backlog: Backlog, new: JobLeft, limits: Limits) -> float:
    """Seconds until the new job is done, and by which it delays each of the others, all added up."""
    costs = backlog.costs
    own_s = new.steps * costs.step_s(new.tokens)
    total_s = own_s
    same_group = [new]
    before = []
    for job in backlog.jobs:
        if job.group == new.group:
            # Where they share steps, each makes those of the other longer.
            shared = JobLeft(job.group, job.tokens, min(job.steps, new.steps))
            total_s += costs.token_s * shared.steps * (job.tokens + new.tokens)
            same_group.append(shared)
        elif job.goes_before(new):
            before.append(job)
        else:
            total_s += own_s
    # What does not fit in the steps that the new job takes.
    total_s += costs.overhead_s * (steps_of(same_group, limits) - new.steps)
    return total_s + seconds_left(before, costs, limits)


def seconds_left(jobs: Iterable[JobLeft], costs: Costs, limits: Limits) -> float:
    """Seconds until all of these have taken their last step, where jobs of a group share steps."""
    groups = defaultdict(list)
    for job in jobs:
        groups[job.group].append(job)
    steps = sum(steps_of(group, limits) for group in groups.values())
    tokens = sum(job.tokens * job.steps for group in groups.values() for job in group)
    return costs.overhead_s * steps + costs.token_s * tokens


def steps_of(group: Sequence[JobLeft], limits: Limits) -> float:
    """Steps in which jobs of one group are done: as many as the longest has left, or as they fill."""
    filled = sum(job.steps * max(1 / limits.max_rows, min(1.0, job.tokens / limits.step_tokens)) for job in group)
    return max(filled, max(job.steps for job in group))
