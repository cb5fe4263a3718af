"""Parity of every mode with its own stock pipeline, alone and with all of them in one batch."""

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
from flux_serving.network.transformer import Transformer
from flux_serving.network.weights import BaseWeights
from flux_serving.sampling.noise_schedule import make_schedule
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.sampling.starting import started_at, step_of_strength
from flux_serving.sampling.steering import control_steps
from stock import context, embeddings, latents, of_size, run, stock_cfg, stock_control, stock_img2img
from tiny import weights_of

TOLERANCE = 1e-5
SIZES = [(4, 4), (4, 6), (8, 8)]


@pytest.fixture(scope="module")
def base(tiny_flux: FluxPipeline, controlnet: FluxControlNetModel) -> BaseWeights:
    return weights_of(tiny_flux, controlnet)


def made(sampler: Sampler, parameters: SamplingParameters, sampler_inputs: SamplerInputs) -> torch.Tensor:
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
    assert (made(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_true_guidance_gives_what_diffusers_gives(
    tiny_flux: FluxPipeline, base: BaseWeights, height: int, width: int, scale: float
) -> None:
    parameters = of_size(height, width, true_cfg_scale=scale)
    sampler_inputs = SamplerInputs(context(1), negative=context(2))
    expected = stock_cfg(tiny_flux, parameters, sampler_inputs)
    assert (made(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < 3 * TOLERANCE


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
    assert (made(Sampler(base), parameters, sampler_inputs) - expected).abs().max() < TOLERANCE


def test_all_modes_share_their_steps_and_each_is_what_it_would_be_alone(
    tiny_flux: FluxPipeline, controlnet: FluxControlNetModel, base: BaseWeights
) -> None:
    control, text, change, both, plain = (
        of_size(4, 6, seed=1, control_span=Span(0.2, 0.8)),
        of_size(4, 6, seed=2, true_cfg_scale=2.5),
        of_size(4, 6, seed=3, strength=0.6),
        of_size(4, 6, seed=4, true_cfg_scale=1.7, control_scale=0.8),
        of_size(4, 6, seed=5),
    )
    sorts = [
        (control, SamplerInputs(context(1), control_latents=latents(6, control))),
        (text, SamplerInputs(context(2), negative=context(3))),
        (change, SamplerInputs(context(4), source_latents=latents(7, change))),
        (both, SamplerInputs(context(5), negative=context(6), control_latents=latents(8, both))),
        (plain, SamplerInputs(context(7, 2))),
    ]
    expected = [
        stock_control(tiny_flux, controlnet, *sorts[0]),
        stock_cfg(tiny_flux, *sorts[1]),
        stock_img2img(tiny_flux, *sorts[2]),
        stock_control(tiny_flux, controlnet, *sorts[3]),
        run(tiny_flux, plain, **embeddings(sorts[4][1].context)),
    ]
    sampler = Sampler(base)
    works = [sampler.begin(*sort)[0] for sort in sorts]
    while left := [work for work in works if work.steps_left]:
        sampler.step(left)
    for work, image in zip(works, expected, strict=True):
        assert (work.latents.cpu() - image).abs().max() < 3 * TOLERANCE


def test_the_tokens_of_a_step_are_counted_as_the_networks_compute_them(
    base: BaseWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of each network, padded to its longest: contexts of different length, true CFG, and edge control."""
    computed: list[int] = []

    def count(network: type, method: str, context: int) -> None:
        """context: the index of this argument of the method."""
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
    # The image, what it moves away from, and the ControlNet's row, each as long as the longest.
    assert (works[2].most_rows, works[2].most_tokens) == (3, 3 * (60 + image_tokens))


def test_strength_1_is_drawing_from_noise_bit_for_bit(base: BaseWeights) -> None:
    parameters = of_size(4, 6)
    source = latents(5, parameters)
    drawn = made(Sampler(base), parameters, SamplerInputs(context(1)))
    for changed in (replace(parameters, strength=1.0), replace(parameters, start_sigma=1.0)):
        assert torch.equal(made(Sampler(base), changed, SamplerInputs(context(1), source_latents=source)), drawn)


@pytest.mark.parametrize(
    ("strength", "steps", "first"),
    [(1, 4, 0), (0.95, 4, 1), (0.75, 4, 1), (0.5, 4, 2), (0.01, 4, 3), (1e-6, 100, 99), (0.3, 10, 7), (0.55, 20, 9)],
)
def test_below_strength_1_something_of_the_image_is_left_and_above_0_a_step_runs(
    strength: float, steps: int, first: int
) -> None:
    assert step_of_strength(strength, steps) == first


def test_a_strength_that_one_step_cannot_have_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="NUM_INFERENCE_STEPS=1 begins with nothing but noise"):
        step_of_strength(0.5, 1)


@pytest.mark.parametrize("tokens", [16, 256, 4096])
@pytest.mark.parametrize("sigma", [0.999, 0.6, 0.25, 0.001])
def test_a_start_at_a_sigma_is_the_same_noise_at_every_size(base: BaseWeights, tokens: int, sigma: float) -> None:
    schedule = make_schedule(base.scheduler_config, 10, tokens)
    begun, first = started_at(schedule, sigma)
    assert float(begun.sigmas[first]) == pytest.approx(sigma)
    assert float(begun.timesteps[first]) == pytest.approx(1000 * sigma, rel=1e-5)
    assert float(begun.sigmas[first + 1]) < sigma
    assert torch.equal(begun.sigmas[first + 1 :], schedule.sigmas[first + 1 :])


def test_a_start_at_a_sigma_of_the_schedule_is_the_strength_that_begins_there(base: BaseWeights) -> None:
    parameters = of_size(4, 6)
    source = latents(5, parameters)
    sigma = float(make_schedule(base.scheduler_config, 10, 6).sigmas[4])
    by_strength, by_sigma = (
        made(Sampler(base), replace(parameters, **given), SamplerInputs(context(1), source_latents=source))
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
def test_control_keeps_the_steps_that_diffusers_keeps(
    start: float, end: float, steps: int, kept: tuple[int, int]
) -> None:
    stock = [i for i in range(steps) if not (i / steps < start or (i + 1) / steps > end)]
    assert list(control_steps(Span(start, end), steps)) == list(range(*kept)) == stock


def test_control_without_a_controlnet_is_refused(tiny_base: BaseWeights) -> None:
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
        Wrong(lambda m: replace(m, source_latents=np.full((4, 16), np.nan)), "SOURCE_LATENTS must be finite"),
        Wrong(
            lambda m: replace(m, negative=replace(m.context, pooled=torch.zeros(3))),
            "NEGATIVE_POOLED_PROJECTION has 3 values",
        ),
    ],
    ids=lambda wrong: wrong.words,
)
def test_material_that_does_not_fit_is_refused_by_name(base: BaseWeights, wrong: Wrong) -> None:
    with pytest.raises(InvalidRequest, match=wrong.words):
        Sampler(base).begin(of_size(4, 4), wrong.change(SamplerInputs(context(1))))
