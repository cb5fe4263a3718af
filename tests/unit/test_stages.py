"""Parts of the pipeline compared with diffusers' functions and with published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import PROMPT
from flux_serving.backend.sampling_options import read_sampling_parameters
from flux_serving.conditioning.blending import concatenated
from flux_serving.conditioning.context import ContextPart, assemble, no_text
from flux_serving.conditioning.prompt_encoding import check_prompt, text_parts
from flux_serving.conditioning.span import ALWAYS
from flux_serving.images.image_size import Sides
from flux_serving.network.latents import Grid, initial_noise, pack_latents, unpack_latents
from flux_serving.sampling.noise_schedule import make_schedule
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_tools.demo.architecture import SCHEDULER


def test_packing_matches_diffusers_and_unpacking_reverses_it() -> None:
    latents = torch.randn(2, 16, 6, 10)
    packed = pack_latents(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 16, 6, 10))
    assert torch.equal(unpack_latents(packed, Grid(3, 5)), latents)


def test_position_ids_match_diffusers() -> None:
    ours = Grid(3, 5).position_ids(torch.device("cpu"), torch.float32)
    assert torch.equal(ours, FluxPipeline._prepare_latent_image_ids(1, 3, 5, torch.device("cpu"), torch.float32))


def test_same_seed_gives_same_noise_and_other_seed_other_noise() -> None:
    noise = [initial_noise(seed, Grid(2, 2), 16, torch.float32) for seed in (7, 7, 8)]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


@pytest.mark.parametrize(("image_tokens", "mu"), [(256, 0.5), (4096, 1.15)])
def test_schedule_shift_depends_on_the_number_of_image_tokens(image_tokens: int, mu: float) -> None:
    """Exponential time shift of Esser et al. 2024, as FLUX uses it: e^mu / (e^mu + 1/t - 1)."""
    schedule = make_schedule(SCHEDULER, 5, image_tokens)
    raw = np.linspace(1, 1 / 5, 5)
    expected = math.exp(mu) / (math.exp(mu) + (1 / raw - 1))
    assert schedule.sigmas.tolist() == pytest.approx([*expected, 0.0], abs=1e-6)
    assert schedule.timesteps.tolist() == pytest.approx((expected * 1000).tolist(), abs=1e-3)


def test_options_of_the_scheduler_config_apply() -> None:
    karras = make_schedule({**SCHEDULER, "use_karras_sigmas": True}, 5, 256)
    assert not torch.allclose(karras.sigmas, make_schedule(SCHEDULER, 5, 256).sigmas)


def test_context_is_text_then_images_with_their_weights() -> None:
    parts = [ContextPart(torch.full((count, 8), value), torch.ones(count)) for count, value in ((2, 1.0), (3, 2.0))]
    text = text_parts(no_text(8, 4, like=torch.ones(1)), ALWAYS, strength=1.0)
    context = assemble([*text, *concatenated(parts, [0.5, 0.0])], torch.zeros(4))
    assert context.tokens[:, 0].tolist() == [0, 1, 1, 2, 2, 2]
    assert context.weights.tolist() == [512, 0.5, 0.5, 0, 0, 0]


def test_empty_prompt_is_one_zero_token_of_weight_512() -> None:
    text = no_text(8, 4, like=torch.ones(1))
    assert (text.tokens.shape, text.weight, float(text.tokens.abs().sum())) == ((1, 8), 512, 0.0)


def test_rejects_prompt_without_text_encoders() -> None:
    prior = FluxPriorReduxPipeline(image_encoder=None, feature_extractor=None, image_embedder=None)
    check_prompt(prior, PROMPT, None)
    with pytest.raises(InvalidRequest, match="PROMPT is given, but the base checkpoint has no text encoders"):
        check_prompt(prior, PROMPT, "a red apple")


def parameters(**values: float) -> SamplingParameters:
    types = {"SEED": np.int64, "GUIDANCE_SCALE": np.float32}
    tensors = {name: np.array([value], types.get(name, np.int32)) for name, value in values.items()}
    if "INITIAL_LATENTS" in values:
        tensors["INITIAL_LATENTS"] = np.zeros((1, 1, 1), np.float32)
    return read_sampling_parameters(tensors, Sides(1024, 16), default_steps=50)


def test_omitted_parameters_have_the_documented_defaults() -> None:
    assert parameters() == SamplingParameters(1024, 1024, 50, 2.5, (42,), first_step=0, end_step=50)


def test_part_of_the_steps_can_be_requested() -> None:
    begin, rest = parameters(NUM_INFERENCE_STEPS=10, END_STEP=4), {"START_STEP": 4, "INITIAL_LATENTS": 1}
    assert (begin.first_step, begin.end_step) == (0, 4)
    end = parameters(NUM_INFERENCE_STEPS=10, **rest)
    assert (end.first_step, end.end_step) == (4, 10)


def test_seeds_can_be_listed_one_per_image() -> None:
    def of_list(*seeds: int, **values: int) -> SamplingParameters:
        tensors = {name: np.array([value], np.int32) for name, value in values.items()}
        return read_sampling_parameters({**tensors, "SEED": np.array(seeds)}, Sides(1024, 16), 50)

    assert of_list(7, 3, 7).seeds == of_list(7, 3, 7, NUM_IMAGES=3).seeds == (7, 3, 7)
    first, *random = of_list(7, -1, -1).seeds
    assert first == 7
    assert random[0] != random[1]
    with pytest.raises(InvalidRequest, match="SEED has 3 values and NUM_IMAGES=2, expected one seed, or one for each"):
        of_list(1, 2, 3, NUM_IMAGES=2)


def test_seeds_count_up_from_the_first() -> None:
    assert parameters(SEED=5, NUM_IMAGES=3).seeds == (5, 6, 7)


def test_random_seed_differs_between_calls() -> None:
    assert parameters(SEED=-1).seeds != parameters(SEED=-1).seeds
    assert len(set(parameters(SEED=-1, NUM_IMAGES=4).seeds)) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"HEIGHT": 500}, "HEIGHT=500, expected a multiple of 16; nearest: 496 or 512"),
        ({"WIDTH": 8}, "WIDTH=8, expected a multiple of 16; nearest: 16"),
        ({"NUM_INFERENCE_STEPS": 4, "END_STEP": 5}, "END_STEP=5, expected at most 4 steps"),
        ({"NUM_INFERENCE_STEPS": 4, "START_STEP": 4}, "START_STEP=4, expected 0..3: 4 is where the run ends"),
        ({"START_STEP": 2}, "START_STEP=2 needs INITIAL_LATENTS"),
        (
            {"SEED": 2**63 - 1, "NUM_IMAGES": 2},
            "SEED=9223372036854775807 with NUM_IMAGES=2, expected at most 9223372036854775806",
        ),
    ],
)
def test_rejects_invalid_sampling_parameters(values: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parameters(**values)
    assert str(caught.value) == message
