"""What is asked for: workloads, the images wanted of each, and when. Pure: the same seeds give the same plan."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

#: Guidance scale of every request.
GUIDANCE = 2.5
#: Mode of a workload that does not mix modes.
DEFAULT_MODE = "redux"
#: Names of `workloads.WORKLOADS`, for the command line, whose help needs no installed package.
WORKLOAD_NAMES = ("demo", "grid512", "mixed")
#: Of every mode but redux, which goes by the image alone.
PROMPT = "red apple"
#: How much of the image img2img changes, as diffusers' `strength`.
STRENGTH = 0.6
#: Denoising steps of a warm-up request: enough to touch every size, too few to cost much. Of fewer than three, img2img
#: would leave none out, and begin with nothing but noise.
WARM_UP_STEPS = 3


class WorkloadKind(NamedTuple):
    """What jobs must have in common to share a call of a stock pipeline. side: pixels. steps: denoising steps."""

    side: int
    steps: int
    mode: str = DEFAULT_MODE


@dataclass(frozen=True)
class ImageOptions:
    """One image wanted.

    index: its place in the workload's list, which also picks the input image. side: pixels. steps: denoising steps.
    mode: of the contract; text2img has no use for the input image, nor redux for the prompt.
    """

    index: int
    side: int
    steps: int
    seed: int
    mode: str = DEFAULT_MODE
    prompt: str = PROMPT

    @property
    def kind(self) -> WorkloadKind:
        return WorkloadKind(self.side, self.steps, self.mode)


@dataclass(frozen=True)
class Workload:
    """A list of jobs without end, and how much of it one measurement takes.

    A closed loop goes on in blocks: one at least, and another for as long as `seconds` have not passed, so that a fast
    system is not measured by how it starts and stops.
    """

    name: str
    #: Of the jobs; several are mixed by a seeded shuffle: each once, then each once more, and so on.
    kinds: tuple[WorkloadKind, ...]
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

    def jobs(self, count: int) -> list[ImageOptions]:
        shuffled = random.Random(self.name)
        kinds: list[WorkloadKind] = []
        while len(kinds) < count:
            block = list(self.kinds)
            shuffled.shuffle(block)
            kinds += block
        return [
            ImageOptions(index, side, steps, 1000 + index, mode)
            for index, (side, steps, mode) in enumerate(kinds[:count])
        ]

    def count(self, concurrency: int) -> int:
        """Wishes of one block: every client gets as many, every kind comes as often."""
        at_least = max(self.requests, self.requests_per_client * concurrency)
        unit = math.lcm(concurrency, len(self.kinds))
        return math.ceil(at_least / unit) * unit


def warm_up(jobs: Sequence[ImageOptions], count: int) -> list[ImageOptions]:
    """The first `count` of a workload's jobs, or as many as it has kinds, each with few steps."""
    count = max(count, len({job.kind for job in jobs}))
    return [replace(job, steps=min(job.steps, WARM_UP_STEPS)) for job in jobs[:count]]


def respelled(jobs: Sequence[ImageOptions], occasion: str) -> list[ImageOptions]:
    """The jobs with blanks behind their prompts: the same words to the demo's tokenizers, and new bytes.

    Triton's response cache goes by the bytes, and would otherwise answer for every prompt but the first.
    """

    def blanks(index: int) -> str:
        drawn = int.from_bytes(hashlib.sha256(f"{occasion} {index}".encode()).digest()[:6], "big")
        return f"{drawn:048b}".translate({ord("0"): " ", ord("1"): "\t"})

    return [replace(job, prompt=job.prompt + blanks(job.index)) for job in jobs]


def poisson_arrivals_s(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Seconds from the start at which `count` jobs arrive, on average `rate_per_s` of them in a second."""
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
