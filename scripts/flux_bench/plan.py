"""What is asked for: workloads, the pictures wanted of each, and when. Pure: the same seeds give the same plan."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: Guidance scale of every request.
GUIDANCE = 2.5
#: Denoising steps of a warm-up request: enough to touch every size, too few to cost much.
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Wish:
    """One picture wanted.

    index: its place in the workload's list, which also picks the input picture. side: pixels. steps: denoising steps.
    """

    index: int
    side: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Workload:
    """A list of wishes without end, and how much of it one measurement takes.

    A closed loop goes on in blocks: one at least, and another for as long as `seconds` have not passed, so that a fast
    system is not measured by how it starts and stops.
    """

    name: str
    #: (side in pixels, denoising steps) of the wishes; several are mixed by a seeded shuffle, equally often.
    kinds: tuple[tuple[int, int], ...]
    #: Clients that each wait for their answer before they ask again.
    concurrency: tuple[int, ...]
    #: Wishes of one block, at least.
    requests: int
    #: Wishes of one block per client, at least.
    requests_per_client: int
    #: Seconds after which a measurement begins no further block.
    seconds: float = 0.0
    #: Whether Poisson arrivals are measured too.
    open_loop: bool = True

    def wishes(self, count: int) -> list[Wish]:
        shuffled = random.Random(self.name)
        kinds: list[tuple[int, int]] = []
        while len(kinds) < count:
            block = list(self.kinds)
            shuffled.shuffle(block)
            kinds += block
        return [Wish(index, side, steps, seed=1000 + index) for index, (side, steps) in enumerate(kinds[:count])]

    def count(self, concurrency: int) -> int:
        """Wishes of one block: every client gets as many, every kind comes as often."""
        at_least = max(self.requests, self.requests_per_client * concurrency)
        unit = math.lcm(concurrency, len(self.kinds))
        return math.ceil(at_least / unit) * unit


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("demo", ((64, 20),), (1, 2, 4, 8, 16), requests=12, requests_per_client=2, seconds=12.0),
        Workload("grid512", ((512, 20),), (1, 2, 4, 8), requests=3, requests_per_client=1, open_loop=False),
        Workload("mixed", ((64, 4), (64, 50), (256, 4), (256, 50)), (1, 2, 4, 8), requests=8, requests_per_client=3),
    )
}


def warm_up(wishes: Sequence[Wish], count: int) -> list[Wish]:
    """The first `count` wishes, each with few steps."""
    return [replace(wish, steps=min(wish.steps, WARM_UP_STEPS)) for wish in wishes[:count]]


def poisson_arrivals_s(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Seconds from the start at which `count` wishes arrive, on average `rate_per_s` of them in a second."""
    if rate_per_s <= 0:
        raise ValueError(f"rate_per_s={rate_per_s}, expected more than 0")
    gaps = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(count):
        now += gaps.expovariate(rate_per_s)
        arrivals.append(now)
    return arrivals


def rotated(items: Sequence[str], turn: int) -> list[str]:
    """The items in another order each turn, so that none of them always comes first."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]
