"""Parity under chaos: whatever joins, leaves, is cancelled or waits, each picture is the one that diffusers gives.

`pytest tests/unit/test_chaos.py --schedules 1000` is the soak; fewer run by default.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from flux_serving.errors import Cancelled, FluxError
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Limits, Scheduler
from flux_serving.stages.context import ALWAYS, Context, Span
from flux_serving.stages.denoising import Denoising
from flux_serving.stages.sampling import Picture, Sampler
from flux_serving.stages.sampling_parameters import SamplingParameters
from flux_serving.weights import BaseWeights
from tiny import CONTEXT_WIDTH, POOLED_WIDTH, stock_latents

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Wish:
    """A picture, and what stock diffusers gives for it. context: whole weights; some tokens come and go."""

    parameters: SamplingParameters
    context: Context
    expected: np.ndarray


@pytest.fixture(scope="module")
def wishes(tiny_flux: FluxPipeline) -> list[Wish]:
    """Forty, no two alike: sizes, steps, guidance, seeds, and contexts of 1 to 60 tokens, some of them
    repeated, some there for a part of the steps only."""
    generator, choice = torch.Generator().manual_seed(11), random.Random(11)
    made = []
    for seed in range(40):
        height, width = choice.choice([(4, 4), (4, 6), (8, 8)])
        steps, guidance = choice.randint(1, 9), choice.choice([1.0, 2.5, 7.0])
        tokens = torch.randn(choice.randint(1, 12), CONTEXT_WIDTH, generator=generator)
        if choice.random() < 0.7:
            tokens = torch.cat([torch.zeros(choice.randint(2, 48), CONTEXT_WIDTH), tokens])
        pooled = torch.randn(POOLED_WIDTH, generator=generator)
        spans, pooled_span = random_spans(choice, len(tokens))
        parameters = SamplingParameters(height, width, steps, guidance, (seed,), first_step=0, end_step=steps)
        weights = torch.tensor([float(choice.choice([1, 1, 2, 5])) for _ in tokens])
        context = Context(tokens, weights, pooled, spans, pooled_span)
        made.append(Wish(parameters, context, stock_latents(tiny_flux, parameters, context).numpy()))
    return made


def random_spans(choice: random.Random, tokens: int) -> tuple[torch.Tensor | None, Span]:
    """None for half of the wishes. The first token always stays."""
    if choice.random() < 0.5:
        return None, ALWAYS
    quarters = [sorted(choice.sample(range(5), 2)) for _ in range(tokens)]
    return torch.tensor([[0, 4], *quarters[1:]]) / 4, Span(*(quarter / 4 for quarter in quarters[0]))


class Faulty(Sampler):
    """A sampler some of whose steps fail as if memory had run out; a picture alone always fits."""

    def __init__(self, base: BaseWeights, attention: str, faults: random.Random) -> None:
        super().__init__(base, attention)
        self._faults = faults

    def step(self, batch: Sequence[Denoising]) -> list[FluxError | None]:
        if len(batch) > 1 and self._faults.random() < 0.05:
            raise MemoryError("a fault that the test wants")
        return super().step(batch)


def run_schedule(base: BaseWeights, wishes: Sequence[Wish], number: int) -> tuple[int, int]:
    """Jobs arrive at random moments, some are cancelled after a random number of steps, some steps fail.

    Returns how many were done and how many cancelled.
    """
    dice = random.Random(number)
    sampler = Faulty(base, dice.choice(["mask", "merge"]), random.Random(number))
    limits = Limits(max_jobs=64, max_rows=dice.choice([1, 3, 16]), step_tokens=dice.choice([40, 120, 4096]))
    engine: Engine[Denoising, Picture] = Engine(sampler, Scheduler(limits))
    ended: list[tuple[Wish, Picture | FluxError]] = []
    done = threading.Semaphore(0)
    chosen = [dice.choice(wishes) for _ in range(dice.randint(1, 14))]
    for wish in chosen:
        (work,) = sampler.begin(wish.parameters, wish.context)
        patience = dice.choice([None, None, None, None, 0, 1, 3])

        def finish(outcome: Picture | FluxError, wish: Wish = wish) -> None:
            ended.append((wish, outcome))
            done.release()

        def is_wanted(work: Denoising = work, patience: int | None = patience) -> bool:
            return patience is None or work.step < patience

        job = Job(
            work,
            wish.parameters.steps,
            finish,
            group=work.grid,
            tokens=work.most_tokens,
            priority=dice.randint(-1, 1),
            is_wanted=is_wanted,
        )
        engine.submit([job])
        if dice.random() < 0.3:
            threading.Event().wait(dice.random() * 0.01)
    for _ in chosen:
        assert done.acquire(timeout=60), "a job hangs"
    engine.close()
    assert sorted(id(wish) for wish, _ in ended) == sorted(id(wish) for wish in chosen), "a job ended twice"
    cancelled = 0
    for wish, outcome in ended:
        if isinstance(outcome, FluxError):
            assert isinstance(outcome, Cancelled), outcome
            cancelled += 1
        else:
            assert np.abs(outcome.latents - wish.expected).max() <= TOLERANCE, f"schedule {number}: {wish.parameters}"
    return len(ended) - cancelled, cancelled


def test_every_surviving_job_equals_its_solo_run(
    tiny_base: BaseWeights, wishes: list[Wish], pytestconfig: pytest.Config
) -> None:
    done = cancelled = 0
    for number in range(pytestconfig.getoption("schedules")):
        of_this = run_schedule(tiny_base, wishes, number)
        done, cancelled = done + of_this[0], cancelled + of_this[1]
    print(f"{done} pictures equal diffusers' to {TOLERANCE}, {cancelled} were cancelled")
    assert done > cancelled > 0


def test_no_two_wishes_could_be_taken_for_each_other(wishes: list[Wish]) -> None:
    """Otherwise a result that reached the wrong request could pass."""
    for index, one in enumerate(wishes):
        for other in wishes[:index]:
            if one.expected.shape == other.expected.shape:
                assert np.abs(one.expected - other.expected).max() > 100 * TOLERANCE
