"""Simulated requests: random sizes, step counts and priorities, with Poisson arrivals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from flux_tools.simulation.figures import CONTEXT_TOKENS
from flux_tools.simulation.machine import Machine, image_tokens


@dataclass(frozen=True)
class ImageKind:
    """Images of one size, step count and priority."""

    width: int
    height: int
    steps: int
    priority: int
    #: Tokens of one step: image and context.
    tokens: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.width, self.height

    def solo_seconds(self, machine: Machine) -> float:
        """Return the seconds that the image takes alone on the machine."""
        return self.steps * machine.step_seconds([self.tokens])


@dataclass(frozen=True)
class SimulatedRequest:
    """A request for one image."""

    kind: ImageKind
    #: Seconds since the start.
    arrival: float


@dataclass(frozen=True)
class Mix:
    """Distribution of requests: shares by size, steps and priority, which are drawn independently.

    The shares of each sum to 1.
    """

    #: Width and height in pixels.
    sizes: tuple[tuple[tuple[int, int], float], ...] = (((512, 512), 0.4), ((1024, 1024), 0.4), ((1024, 576), 0.2))
    steps: tuple[tuple[int, float], ...] = ((4, 0.2), (28, 0.5), (50, 0.3))
    priorities: tuple[tuple[int, float], ...] = ((-1, 0.2), (0, 0.6), (1, 0.2))
    context_tokens: int = CONTEXT_TOKENS

    def kinds(self) -> tuple[list[ImageKind], list[float]]:
        """Return every kind and its share."""
        kinds, shares = [], []
        for ((width, height), a), (steps, b), (priority, c) in product(self.sizes, self.steps, self.priorities):
            kinds.append(ImageKind(width, height, steps, priority, image_tokens(width, height) + self.context_tokens))
            shares.append(a * b * c)
        return kinds, shares

    def mean_solo_seconds(self, machine: Machine) -> float:
        return sum(kind.solo_seconds(machine) * share for kind, share in zip(*self.kinds(), strict=True))


#: Small images only: these gain most from sharing steps.
SMALL = Mix(sizes=(((512, 512), 1.0),))
#: The demo checkpoint's images, with its 16 Redux tokens and one for the text.
DEMO = Mix(sizes=(((64, 64), 1.0),), context_tokens=16 + 1)


def arrivals(mix: Mix, rate: float, count: int, seed: int) -> Iterator[SimulatedRequest]:
    """Yield requests. rate: per second. The same seed yields the same kinds in the same order at every rate."""
    chance = random.Random(seed)
    kinds, shares = mix.kinds()
    now = 0.0
    remaining = count
    while remaining:
        batch = min(remaining, 10_000)
        for kind in chance.choices(kinds, shares, k=batch):
            now += chance.expovariate(1.0) / rate
            yield SimulatedRequest(kind, now)
        remaining -= batch
