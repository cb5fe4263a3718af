"""Parity of every mode with its stock diffusers pipeline, alone and with all modes in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxPipeline

from flux_contract.errors import InvalidRequest
from flux_serving.conditioning.span import Span
from flux_serving.network.controlnet import ControlNet
from flux_serving.network.latents import pack_mask
from flux_serving.network.transformer import Transformer
from flux_serving.network.weights import BaseWeights
from flux_serving.sampling.noise_schedule import make_schedule
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.sampling.starting import started_at, step_of_strength
from flux_serving.sampling.steering import control_steps
from stock import (
    context,
    embeddings,
    latent_mask,
    latents,
    of_size,
    run,
    stock_cfg,
    stock_control,
    stock_img2img,
    stock_inpaint,
)
from tiny import weights_of

TOLERANCE = 1e-5
SIZES = [(4, 4), (4, 6), (8, 8)]


@pytest.fixture(scope="module")
def base(tiny_flux: FluxPipeline, controlnet: FluxControlNetModel) -> BaseWeights:
    return weights_of(tiny_flux, controlnet)


def final_latents(sampler: Sampler, parameters: SamplingParameters, sampler_inputs: SamplerInputs) -> torch.Tensor:
    (work,) = sampler.begin(parameters, sampler_inputs)
    for _ in range(work.steps_left):
        sampler.step([work])
    return work.latents.cpu()


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9, 1.0])
def test_image_to_image_matches_diffusers(
    tiny_flux: FluxPipeline, base: BaseWeights, height: int, width: int, strength: float
) -> None:
    parameters = of_size(height, width, strength=strength)
    sampler_inputs = SamplerInputs(context(1), source_latents=latents(5, parameters))
    expected = stock_img2img(tiny_flux, parameters, sampler_inputs)
    assert (final_latents(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("steps", "strength"), [(10, 0.3), (10, 0.8), (4, 0.5), (10, 1.0)])
@pytest.mark.parametrize("is_soft", [False, True], ids=["binary", "soft"])
def test_inpainting_matches_diffusers(
    tiny_flux: FluxPipeline, base: BaseWeights, height: int, width: int, steps: int, strength: float, is_soft: bool
) -> None:
    parameters = of_size(height, width, steps, strength=strength)
    mask = latent_mask(8, parameters, is_soft)
    sampler_inputs = SamplerInputs(context(1), source_latents=latents(5, parameters), source_mask=mask)
    expected = stock_inpaint(tiny_flux, parameters, sampler_inputs)
    actual = final_latents(Sampler(base), parameters, sampler_inputs)
    assert (actual - expected).abs().max() < TOLERANCE
    unmasked = final_latents(Sampler(base), parameters, replace(sampler_inputs, source_mask=None))
    assert (actual - unmasked).abs().max() > 100 * TOLERANCE


def test_inpainting_with_true_guidance_matches_diffusers(tiny_flux: FluxPipeline, base: BaseWeights) -> None:
    parameters = of_size(4, 6, true_cfg_scale=2.0, strength=0.7)
    sampler_inputs = SamplerInputs(
        context(1), context(2), source_latents=latents(5, parameters), source_mask=latent_mask(8, parameters)
    )
    expected = stock_inpaint(tiny_flux, parameters, sampler_inputs)
    assert (final_latents(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < 3 * TOLERANCE


def test_inpainting_keeps_latents_outside_mask(base: BaseWeights) -> None:
    parameters = of_size(8, 8, strength=0.8)
    source, mask = latents(5, parameters), latent_mask(8, parameters)
    actual = final_latents(
        Sampler(base), parameters, SamplerInputs(context(1), source_latents=source, source_mask=mask)
    )
    kept = pack_mask(torch.tensor(mask), 4) == 0
    assert torch.equal(actual[kept], torch.tensor(source)[kept])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_true_cfg_matches_diffusers(
    tiny_flux: FluxPipeline, base: BaseWeights, height: int, width: int, scale: float
) -> None:
    parameters = of_size(height, width, true_cfg_scale=scale)
    sampler_inputs = SamplerInputs(context(1), negative=context(2))
    expected = stock_cfg(tiny_flux, parameters, sampler_inputs)
    assert (final_latents(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < 3 * TOLERANCE


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("scale", "span"), [(1.0, (0.0, 1.0)), (0.6, (0.2, 0.7)), (1.3, (0.0, 0.35))])
def test_edge_control_matches_diffusers(
    tiny_flux: FluxPipeline,
    controlnet: FluxControlNetModel,
    base: BaseWeights,
    height: int,
    width: int,
    scale: float,
    span: tuple[float, float],
) -> None:
    parameters = of_size(height, width, control_scale=scale, control_span=Span(*span))
    sampler_inputs = SamplerInputs(context(1), control_latents=latents(6, parameters))
    expected = stock_control(tiny_flux, controlnet, parameters, sampler_inputs)
    assert (final_latents(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < TOLERANCE


def test_all_modes_match_diffusers_in_one_batch(
    tiny_flux: FluxPipeline, controlnet: FluxControlNetModel, base: BaseWeights
) -> None:
    control, text, change, both, plain, inpaint = (
        of_size(4, 6, seed=1, control_span=Span(0.2, 0.8)),
        of_size(4, 6, seed=2, true_cfg_scale=2.5),
        of_size(4, 6, seed=3, strength=0.6),
        of_size(4, 6, seed=4, true_cfg_scale=1.7, control_scale=0.8),
        of_size(4, 6, seed=5),
        of_size(4, 6, seed=6, strength=0.8),
    )
    sorts = [
        (control, SamplerInputs(context(1), control_latents=latents(6, control))),
        (text, SamplerInputs(context(2), negative=context(3))),
        (change, SamplerInputs(context(4), source_latents=latents(7, change))),
        (both, SamplerInputs(context(5), negative=context(6), control_latents=latents(8, both))),
        (plain, SamplerInputs(context(7, 2))),
        (
            inpaint,
            SamplerInputs(context(8), source_latents=latents(9, inpaint), source_mask=latent_mask(10, inpaint)),
        ),
    ]
    expected = [
        stock_control(tiny_flux, controlnet, *sorts[0]),
        stock_cfg(tiny_flux, *sorts[1]),
        stock_img2img(tiny_flux, *sorts[2]),
        stock_control(tiny_flux, controlnet, *sorts[3]),
        run(tiny_flux, plain, **embeddings(sorts[4][1].context)),
        stock_inpaint(tiny_flux, *sorts[5]),
    ]
    sampler = Sampler(base)
    works = [sampler.begin(*sort)[0] for sort in sorts]
    while left := [work for work in works if work.steps_left]:
        sampler.step(left)
    for work, image in zip(works, expected, strict=True):
        assert (work.latents.cpu() - image).abs().max() < 3 * TOLERANCE


def test_step_tokens_are_counted_as_the_networks_compute_them(
    base: BaseWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each network's rows are padded to the longest, with different context lengths, true CFG and edge control."""
    computed: list[int] = []

    def count(network: type, method: str, context: int) -> None:
        """Count the tokens of each call. context: index of the context among the method's arguments."""
        original = getattr(network, method)

        def counting(self: object, latents: torch.Tensor, *arguments: object) -> object:
            rows = arguments[context - 1]
            assert isinstance(rows, torch.Tensor)
            computed.append(len(rows) * (latents.shape[1] + rows.shape[1]))
            return original(self, latents, *arguments)

        monkeypatch.setattr(network, method, counting)

    count(Transformer, "velocity", 1)
    count(ControlNet, "residuals", 3)
    sampler = Sampler(base)
    parameters = of_size(4, 6)
    control = {"control_latents": latents(7, parameters)}
    sampler_inputs = [
        (parameters, SamplerInputs(context(1, 3))),
        (parameters, SamplerInputs(context(2, 40), **control)),
        (replace(parameters, true_cfg_scale=2.0), SamplerInputs(context(3, 9), context(4, 60), **control)),
    ]
    works = [sampler.begin(*one)[0] for one in sampler_inputs]
    for batch in (works, works[:1], works[1:2], works[2:], works[:2]):
        expected = sampler.tokens(batch)
        computed.clear()
        sampler.step(batch)
        assert sum(computed) == expected
        assert len(batch) > 1 or batch[0].most_tokens >= expected
    image_tokens = works[0].grid.tokens
    assert works[0].most_tokens == 3 + image_tokens
    # Rows for the condition, the negative prompt and the ControlNet, each padded to the longest.
    assert (works[2].most_rows, works[2].most_tokens) == (3, 3 * (60 + image_tokens))


def test_strength_1_is_bit_equal_to_generation_from_noise(base: BaseWeights) -> None:
    parameters = of_size(4, 6)
    source = latents(5, parameters)
    drawn = final_latents(Sampler(base), parameters, SamplerInputs(context(1)))
    for changed in (replace(parameters, strength=1.0), replace(parameters, start_sigma=1.0)):
        assert torch.equal(
            final_latents(Sampler(base), changed, SamplerInputs(context(1), source_latents=source)), drawn
        )


@pytest.mark.parametrize(
    ("strength", "steps", "first"),
    [(1, 4, 0), (0.95, 4, 1), (0.75, 4, 1), (0.5, 4, 2), (0.01, 4, 3), (1e-6, 100, 99), (0.3, 10, 7), (0.55, 20, 9)],
)
def test_first_step_keeps_some_of_the_image_and_runs_at_least_one_step(strength: float, steps: int, first: int) -> None:
    assert step_of_strength(strength, steps) == first


def test_rejects_strength_below_1_with_one_step() -> None:
    with pytest.raises(InvalidRequest, match="NUM_INFERENCE_STEPS=1 starts from pure noise"):
        step_of_strength(0.5, 1)


@pytest.mark.parametrize("tokens", [16, 256, 4096])
@pytest.mark.parametrize("sigma", [0.999, 0.6, 0.25, 0.001])
def test_start_sigma_is_the_same_noise_at_every_size(base: BaseWeights, tokens: int, sigma: float) -> None:
    schedule = make_schedule(base.scheduler_config, 10, tokens)
    begun, first = started_at(schedule, sigma)
    assert float(begun.sigmas[first]) == pytest.approx(sigma)
    assert float(begun.timesteps[first]) == pytest.approx(1000 * sigma, rel=1e-5)
    assert float(begun.sigmas[first + 1]) < sigma
    assert torch.equal(begun.sigmas[first + 1 :], schedule.sigmas[first + 1 :])


def test_start_sigma_of_the_schedule_equals_the_matching_strength(base: BaseWeights) -> None:
    parameters = of_size(4, 6)
    source = latents(5, parameters)
    sigma = float(make_schedule(base.scheduler_config, 10, 6).sigmas[4])
    by_strength, by_sigma = (
        final_latents(Sampler(base), replace(parameters, **given), SamplerInputs(context(1), source_latents=source))
        for given in ({"strength": 0.6}, {"start_sigma": sigma})
    )
    assert torch.equal(by_strength, by_sigma)


@pytest.mark.parametrize(
    ("start", "end", "steps", "kept"),
    [
        (0, 1, 5, (0, 5)),
        (0.2, 0.8, 10, (2, 8)),
        (0.5, 0.55, 10, (0, 0)),
        (0.0, 0.05, 10, (0, 0)),
        (0.25, 1, 10, (3, 10)),
    ],
)
def test_control_applies_to_the_same_steps_as_in_diffusers(
    start: float, end: float, steps: int, kept: tuple[int, int]
) -> None:
    stock = [i for i in range(steps) if not (i / steps < start or (i + 1) / steps > end)]
    assert list(control_steps(Span(start, end), steps)) == list(range(*kept)) == stock


def test_rejects_control_without_a_controlnet(tiny_base: BaseWeights) -> None:
    parameters = of_size(4, 4)
    with pytest.raises(InvalidRequest, match="CONTROL_LATENTS is given, but this server has no ControlNet"):
        Sampler(tiny_base).begin(parameters, SamplerInputs(context(1), control_latents=latents(1, parameters)))


Change = Callable[[SamplerInputs], SamplerInputs]


@dataclass(frozen=True)
class Wrong:
    change: Change
    words: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(lambda m: replace(m, source_latents=np.zeros((5, 16))), "SOURCE_LATENTS has shape"),
        Wrong(lambda m: replace(m, control_latents=np.zeros((4, 3))), "CONTROL_LATENTS has shape"),
        Wrong(lambda m: replace(m, source_latents=np.full((4, 16), np.nan)), "SOURCE_LATENTS has non-finite values"),
        Wrong(
            lambda m: replace(m, negative=replace(m.context, pooled=torch.zeros(3))),
            "NEGATIVE_POOLED_PROJECTION has 3 values",
        ),
    ],
    ids=lambda wrong: wrong.words,
)
def test_rejects_wrong_tensors_by_name(base: BaseWeights, wrong: Wrong) -> None:
    with pytest.raises(InvalidRequest, match=wrong.words):
        Sampler(base).begin(of_size(4, 4), wrong.change(SamplerInputs(context(1))))
