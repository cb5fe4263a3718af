"""Workloads, their jobs and arrival times. Everything is deterministic: the same seeds give the same plan."""

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
#: Names of `workloads.WORKLOADS`, for the command line, whose `--help` must not import packages.
WORKLOAD_NAMES = ("demo", "grid512", "mixed")
#: Prompt of every mode except redux, which uses only the image.
PROMPT = "red apple"
#: diffusers' `strength` for img2img.
STRENGTH = 0.6
#: Denoising steps of a warm-up request. With fewer than three, img2img would skip no step and start from pure noise.
WARM_UP_STEPS = 3


class WorkloadKind(NamedTuple):
    """Properties that jobs must share to be batched in a stock pipeline. side: pixels. steps: denoising steps."""

    side: int
    steps: int
    mode: str = DEFAULT_MODE


@dataclass(frozen=True)
class ImageOptions:
    """A job: the options of one image.

    index: position in the workload, which also selects the input image. side: pixels. steps: denoising steps. mode: a
    mode of the contract; text2img ignores the input image, and redux the prompt.
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
    """An endless list of jobs, and how many of them one measurement uses.

    A closed loop runs at least one block of jobs and starts another until `seconds` have passed, so that start and end
    do not dominate the result of a fast system.
    """

    name: str
    #: Kinds of the jobs. Several kinds are mixed by repeating a seeded shuffle of all of them.
    kinds: tuple[WorkloadKind, ...]
    #: Numbers of clients of the closed loops.
    concurrency: tuple[int, ...]
    #: Minimum number of jobs in a block.
    requests: int
    #: Minimum number of jobs per client in a block.
    requests_per_client: int
    #: Seconds after which a measurement starts no further block.
    seconds: float = 0.0
    #: Whether Poisson arrivals are also measured.
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
        """Return the number of jobs in a block: a multiple of the number of clients and of kinds."""
        at_least = max(self.requests, self.requests_per_client * concurrency)
        unit = math.lcm(concurrency, len(self.kinds))
        return math.ceil(at_least / unit) * unit


def warm_up(jobs: Sequence[ImageOptions], count: int) -> list[ImageOptions]:
    """Return the first `count` jobs, or as many as there are kinds if that is more, each with few steps."""
    count = max(count, len({job.kind for job in jobs}))
    return [replace(job, steps=min(job.steps, WARM_UP_STEPS)) for job in jobs[:count]]


def respelled(jobs: Sequence[ImageOptions], occasion: str) -> list[ImageOptions]:
    """Return the jobs with white space after their prompts, which changes the bytes but not the demo's tokens.

    Otherwise Triton's response cache, which compares bytes, would answer for every prompt but the first.
    """

    def blanks(index: int) -> str:
        drawn = int.from_bytes(hashlib.sha256(f"{occasion} {index}".encode()).digest()[:6], "big")
        return f"{drawn:048b}".translate({ord("0"): " ", ord("1"): "\t"})

    return [replace(job, prompt=job.prompt + blanks(job.index)) for job in jobs]


def poisson_arrivals_s(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Return the arrival times of `count` jobs in seconds from the start, at a mean rate of `rate_per_s`."""
    if rate_per_s <= 0:
        raise ValueError(f"rate_per_s={rate_per_s}, expected more than 0")
    gaps = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(count):
        now += gaps.expovariate(rate_per_s)
        arrivals.append(now)
    return arrivals


def rotated(items: Sequence[str], turn: int) -> list[str]:
    """Return the items rotated by `turn`, so that no item is always first."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]
