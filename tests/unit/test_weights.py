"""Loading of few-step checkpoints, another VAE and a ControlNet. Parts that do not fit together prevent the start."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline

from flux_contract.errors import CannotStart
from flux_serving.conditioning.context import Context
from flux_serving.network.weights import BaseWeights, load_base
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.settings import Checkpoints
from tiny import make_tiny_controlnet

CPU = torch.device("cpu")


def loaded(checkpoints: Checkpoints) -> BaseWeights:
    return load_base(checkpoints, CPU, torch.float32)


def without_shift(checkpoints: Checkpoints, folder: Path) -> Checkpoints:
    """Returns a checkpoint like FLUX.1-schnell: no guidance embedding, and a scheduler with a fixed shift."""
    base = folder / "base"
    shutil.copytree(checkpoints.base, base)
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_dynamic_shifting": False, "shift": 1.0}))
    return replace(checkpoints, base=base)


@pytest.mark.slow
def test_few_step_checkpoint_runs_4_steps_and_matches_diffusers(
    random_checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoints = without_shift(random_checkpoints, tmp_path)
    base = loaded(checkpoints)
    assert (base.default_steps, loaded(random_checkpoints).default_steps) == (4, 50)
    config = base.transformer.config
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, config.joint_attention_dim, generator=generator)
    pooled = torch.randn(config.pooled_projection_dim, generator=generator)
    sampler = Sampler(base)
    (work,) = sampler.begin(
        SamplingParameters(48, 64, 4, 2.5, (5,), first_step=0, end_step=4),
        SamplerInputs(Context(tokens, torch.ones(3), pooled)),
    )
    while work.steps_left:
        sampler.step([work])
    stock = FluxPipeline.from_pretrained(checkpoints.base, **dict.fromkeys(Checkpoints.TEXT_PARTS))
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        prompt_embeds=tokens[None],
        pooled_prompt_embeds=pooled[None],
        height=48,
        width=64,
        num_inference_steps=4,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="latent",
    ).images[0]
    assert (work.latents - expected).abs().max() < 1e-5


def test_other_vae_replaces_the_one_of_the_base_checkpoint(random_checkpoints: Checkpoints, tmp_path: Path) -> None:
    vae = AutoencoderKL.from_pretrained(random_checkpoints.base / "vae")
    vae.register_to_config(scaling_factor=0.9, sample_size=96)
    vae.save_pretrained(tmp_path / "vae")
    checkpoints = replace(random_checkpoints, vae=tmp_path / "vae")
    base = loaded(checkpoints)
    assert (base.vae.config.scaling_factor, base.native_side) == (0.9, 96)
    assert checkpoints.image_sides() == (96, base.token_side)


def test_rejects_vae_with_other_channels(random_checkpoints: Checkpoints, tmp_path: Path) -> None:
    AutoencoderKL(latent_channels=4, norm_num_groups=4, block_out_channels=(8,)).save_pretrained(tmp_path / "vae")
    with pytest.raises(CannotStart, match="the VAE has 4 latent channels, the transformer expects 8"):
        loaded(replace(random_checkpoints, vae=tmp_path / "vae"))


def test_rejects_controlnet_of_another_transformer(random_checkpoints: Checkpoints, tmp_path: Path) -> None:
    make_tiny_controlnet().save_pretrained(tmp_path / "net")
    with pytest.raises(CannotStart, match="net: in_channels is 16, expected 32"):
        loaded(replace(random_checkpoints, controlnet=tmp_path / "net"))
