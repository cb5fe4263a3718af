"""Parity under chaos: each image matches diffusers, whichever jobs join, leave, wait or are cancelled.

`pytest tests/unit/test_chaos.py --schedules 1000` runs the soak test. The default is fewer schedules.
"""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxPipeline

from flux_contract.errors import Cancelled, FluxError
from flux_serving.conditioning.context import Context
from flux_serving.conditioning.span import ALWAYS, Span
from flux_serving.network.lora import Adapter, summed
from flux_serving.network.projections import LowRank
from flux_serving.network.weights import BaseWeights
from flux_serving.sampling.denoising import Denoising
from flux_serving.sampling.sampler import GeneratedImage, Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Limits, Scheduler
from stock import (
    context,
    latent_mask,
    latents,
    of_size,
    stock_cfg,
    stock_control,
    stock_img2img,
    stock_inpaint,
    stock_latents,
)
from tiny import CONTEXT_WIDTH, POOLED_WIDTH, weights_of

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4


@dataclass(frozen=True)
class ParityCase:
    """An image, and the result of stock diffusers for it. lora: whether the transformer is adapted."""

    parameters: SamplingParameters
    sampler_inputs: SamplerInputs
    expected: np.ndarray
    lora: bool = False


@pytest.fixture(scope="module")
def controlled(tiny_flux: FluxPipeline, controlnet: FluxControlNetModel) -> BaseWeights:
    return weights_of(tiny_flux, controlnet)


@pytest.fixture(scope="module")
def adapter(tiny_flux: FluxPipeline) -> Adapter:
    """A LoRA for some of the layers."""
    generator, additions = torch.Generator().manual_seed(2), {}
    for name in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_mlp", "proj_out"):
        layer = tiny_flux.transformer.get_submodule(name)
        down, up = (
            torch.randn(shape, generator=generator) for shape in ((2, layer.in_features), (layer.out_features, 2))
        )
        additions[name] = LowRank(0.3 * down, 0.3 * up)
    return additions


@pytest.fixture(scope="module")
def cases(tiny_flux: FluxPipeline, controlnet: FluxControlNetModel, adapter: Adapter) -> list[ParityCase]:
    """84 different cases.

    40 have contexts of 1 to 60 tokens, some of them repeated or with spans. 40 are in the other modes. 4 have contexts
    so long that shorter ones cannot share their steps.
    """
    generator, choice = torch.Generator().manual_seed(11), random.Random(11)
    merged = copy.deepcopy(tiny_flux)
    for name, addition in adapter.items():
        merged.transformer.get_submodule(name).weight.data += addition.up @ addition.down
    found = []
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
        given = Context(tokens, weights, pooled, spans, pooled_span)
        is_adapted = choice.random() < 0.3
        expected = stock_latents(merged if is_adapted else tiny_flux, parameters, given)
        found.append(ParityCase(parameters, SamplerInputs(given), expected.numpy(), is_adapted))
    for seed in range(40, 80):
        found.append(edited(tiny_flux, controlnet, choice, seed))
    for seed in range(80, 84):
        parameters, given = of_size(8, 8, steps=choice.randint(2, 5), seed=seed), context(seed, 600)
        found.append(ParityCase(parameters, SamplerInputs(given), stock_latents(tiny_flux, parameters, given).numpy()))
    return found


def edited(flux: FluxPipeline, controlnet: FluxControlNetModel, choice: random.Random, seed: int) -> ParityCase:
    """Returns a case of image-to-image, inpainting, true CFG, edge control, or the last two together."""
    height, width = choice.choice([(4, 4), (4, 6), (8, 8)])
    steps, mode = choice.randint(2, 9), choice.choice(["img2img", "inpaint", "cfg", "control", "both"])
    parameters = of_size(height, width, steps, seed)
    sampler_inputs = SamplerInputs(context(seed, choice.randint(1, 6)))
    if mode == "img2img":
        # Only strengths at which diffusers also skips the first step.
        parameters = replace(parameters, strength=choice.randint(1, steps - 1) / steps)
        sampler_inputs = replace(sampler_inputs, source_latents=latents(seed, parameters))
        return ParityCase(parameters, sampler_inputs, stock_img2img(flux, parameters, sampler_inputs).numpy())
    if mode == "inpaint":
        parameters = replace(parameters, strength=choice.randint(1, steps - 1) / steps)
        mask = latent_mask(seed, parameters, is_soft=choice.random() < 0.5)
        sampler_inputs = replace(sampler_inputs, source_latents=latents(seed, parameters), source_mask=mask)
        return ParityCase(parameters, sampler_inputs, stock_inpaint(flux, parameters, sampler_inputs).numpy())
    if mode in ("cfg", "both"):
        parameters = replace(parameters, true_cfg_scale=choice.choice([1.3, 2.5]))
        sampler_inputs = replace(sampler_inputs, negative=context(seed + 1000, len(sampler_inputs.context.tokens)))
    if mode == "cfg":
        return ParityCase(parameters, sampler_inputs, stock_cfg(flux, parameters, sampler_inputs).numpy())
    start, end = sorted(choice.sample(range(5), 2))
    parameters = replace(parameters, control_scale=choice.choice([0.5, 1.0]), control_span=Span(start / 4, end / 4))
    sampler_inputs = replace(sampler_inputs, control_latents=latents(seed, parameters))
    return ParityCase(parameters, sampler_inputs, stock_control(flux, controlnet, parameters, sampler_inputs).numpy())


def random_spans(choice: random.Random, tokens: int) -> tuple[torch.Tensor | None, Span]:
    """Returns random spans of tokens and pooled embedding, or no spans in half of the cases.

    The first token is used at all steps.
    """
    if choice.random() < 0.5:
        return None, ALWAYS
    quarters = [sorted(choice.sample(range(5), 2)) for _ in range(tokens)]
    return torch.tensor([[0, 4], *quarters[1:]]) / 4, Span(*(quarter / 4 for quarter in quarters[0]))


class Faulty(Sampler):
    """A sampler with simulated out-of-memory errors in steps of several images.

    limits: each step is checked against them.
    """

    def __init__(self, base: BaseWeights, attention: str, faults: random.Random, limits: Limits) -> None:
        super().__init__(base, attention)
        self._faults = faults
        self._limits = limits

    def step(self, batch: Sequence[Denoising]) -> list[FluxError | None]:
        assert len(batch) == 1 or self.tokens(batch) <= self._limits.step_tokens
        lengths = [work.most_tokens // work.most_rows for work in batch]
        assert max(lengths) - min(lengths) <= self._limits.max_padding
        if len(batch) > 1 and self._faults.random() < 0.05:
            raise MemoryError("a simulated fault")
        return super().step(batch)


def run_schedule(base: BaseWeights, adapter: Adapter, cases: Sequence[ParityCase], number: int) -> tuple[int, int]:
    """Run jobs that arrive at random times. Some are cancelled after a random number of steps, and some steps fail.

    Returns the number of finished jobs and of cancelled jobs.
    """
    dice = random.Random(number)
    attention = dice.choice(["mask", "merge"])
    limits = Limits(max_jobs=64, max_rows=dice.choice([1, 3, 16]), step_tokens=dice.choice([40, 120, 4096]))
    sampler = Faulty(base, attention, random.Random(number), limits)
    hold = sampler.transformer.hold
    held = {name: LowRank(hold(addition.down), hold(addition.up)) for name, addition in adapter.items()}
    adapted = sampler.transformer.adapted(summed([(held, 1.0)]))
    engine: Engine[Denoising, GeneratedImage] = Engine(sampler, Scheduler(limits))
    ended: list[tuple[ParityCase, GeneratedImage | FluxError]] = []
    done = threading.Semaphore(0)
    chosen = [dice.choice(cases) for _ in range(dice.randint(1, 14))]
    for case in chosen:
        (work,) = sampler.begin(case.parameters, case.sampler_inputs, adapted if case.lora else None)
        first = work.step
        patience = dice.choice([None, None, None, None, 0, 1, 3])

        def finish(outcome: GeneratedImage | FluxError, case: ParityCase = case) -> None:
            ended.append((case, outcome))
            done.release()

        def is_wanted(work: Denoising = work, first: int = first, patience: int | None = patience) -> bool:
            return patience is None or work.step - first < patience

        job = Job(
            work,
            work.steps_left,
            finish,
            group=work.group,
            tokens=work.most_tokens,
            rows=work.most_rows,
            priority=dice.randint(-1, 1),
            is_wanted=is_wanted,
        )
        engine.submit([job])
        if dice.random() < 0.3:
            threading.Event().wait(dice.random() * 0.01)
    for _ in chosen:
        assert done.acquire(timeout=60), "a job hangs"
    engine.close()
    assert sorted(id(case) for case, _ in ended) == sorted(id(case) for case in chosen), "a job ended twice"
    cancelled = 0
    for case, outcome in ended:
        if isinstance(outcome, FluxError):
            assert isinstance(outcome, Cancelled), outcome
            cancelled += 1
        else:
            assert np.abs(outcome.latents - case.expected).max() <= TOLERANCE, f"schedule {number}: {case.parameters}"
    return len(ended) - cancelled, cancelled


def test_every_finished_job_equals_its_solo_run(
    controlled: BaseWeights, adapter: Adapter, cases: list[ParityCase], pytestconfig: pytest.Config
) -> None:
    done = cancelled = 0
    for number in range(pytestconfig.getoption("schedules")):
        of_this = run_schedule(controlled, adapter, cases, number)
        done, cancelled = done + of_this[0], cancelled + of_this[1]
    print(f"{done} images match diffusers within {TOLERANCE}, {cancelled} were cancelled")
    assert done > cancelled > 0


def test_all_cases_have_different_results(cases: list[ParityCase]) -> None:
    """Otherwise a result that was returned to the wrong request could go unnoticed."""
    for index, one in enumerate(cases):
        for other in cases[:index]:
            if one.expected.shape == other.expected.shape:
                assert np.abs(one.expected - other.expected).max() > 100 * TOLERANCE
