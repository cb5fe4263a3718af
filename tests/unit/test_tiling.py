"""Tiled VAE: results close to untiled ones, without seams, and exact for images that need no tiles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import DEMO
from flux_serving.network.decoding import decode_latents, decode_tiled
from flux_serving.network.latent_encoding import encode_pixels, encode_tiled
from flux_serving.network.latents import Grid, pack_latents
from flux_serving.network.tiling import OVERLAP, TILE, _places, _shares, _twin
from flux_serving.network.weights import BaseWeights, load_base, load_vae_encoder
from images import drawn_image


@pytest.fixture(scope="module")
def demo() -> BaseWeights:
    return load_base(DEMO, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """1024 x 1024 pixels: one large drawing, with small drawings over a quarter of it, so that all tiles differ."""
    whole = drawn_image(seed=1).resize((1024, 1024), Image.Resampling.LANCZOS)
    for index in range(64):
        small = drawn_image(seed=index).resize((64, 64), Image.Resampling.LANCZOS)
        whole.paste(small, (64 * (index % 8), 64 * (index // 8)))
    return np.asarray(whole)


@pytest.mark.parametrize("length", [128, 129, 130, 200, 224, 225, 512])
def test_blending_weights_of_overlapping_tiles_add_up_to_one(length: int) -> None:
    total = torch.zeros(length * 8)
    for start, share in _shares(length, TILE, 8).items():
        assert len(share) == min(TILE, length) * 8
        total[start * 8 : start * 8 + len(share)] += share
    assert torch.allclose(total, torch.ones(length * 8), atol=1e-6)
    assert all(after - before <= TILE - OVERLAP for before, after in pairwise(_shares(length, TILE, 8)))


@pytest.mark.parametrize("length", [48, 64, 128, 512])
def test_patches_are_within_the_image_and_reach_its_edges(length: int) -> None:
    places = _places(length)
    assert all(begin >= 0 and begin + 48 <= length and 0 <= first <= 16 for begin, first in places)
    assert places[0][0] + places[0][1] == 0
    assert places[-1][0] + places[-1][1] + 32 == length


@pytest.mark.slow
def test_tiled_result_differs_from_untiled_by_less_than_2_levels(demo: BaseWeights, image: np.ndarray) -> None:
    pixels = torch.tensor(image).movedim(-1, 0)[None].float() / 255 * 2 - 1
    with torch.inference_mode():
        latents = demo.vae.encode(pixels).latent_dist.mode()
    scaled = (latents - demo.vae.config.shift_factor) * demo.vae.config.scaling_factor
    whole = decode_latents(demo, pack_latents(scaled), Grid(64, 64))[0].astype(int)
    tiled_latents = encode_tiled(demo.vae, pixels, tile=64)
    assert (tiled_latents - latents).abs().mean() < 0.02 * latents.abs().mean()
    difference = np.abs(decode_tiled(demo, tiled_latents, tile=64)[0] - whole)
    print(f"tiles differ by {difference.mean():.2f} of 255 levels on average, by {difference.max()} at most")
    assert difference.mean() < 2
    # No seam: the error where tiles overlap is not larger than elsewhere.
    assert difference[:, 480:544].mean() < 2


def test_untiled_encoding_matches_diffusers(demo: BaseWeights) -> None:
    rgb = np.asarray(drawn_image(seed=3).resize((96, 64)))
    own = encode_pixels(load_vae_encoder(DEMO, torch.device("cpu"), torch.float32), rgb)
    with torch.inference_mode():
        pixels = demo.image_processor.preprocess(Image.fromarray(rgb))
        mode = demo.vae.encode(pixels).latent_dist.mode()
    scaled = (mode - demo.vae.config.shift_factor) * demo.vae.config.scaling_factor
    assert (own - pack_latents(scaled)[0]).abs().max() < 1e-4


def test_shared_norms_do_not_change_the_vae(demo: BaseWeights) -> None:
    modules = [type(module).__name__ for module in demo.vae.modules()]
    twin, norms = _twin(demo.vae)
    assert len(norms) == sum(name == "GroupNorm" for name in modules) > 10
    assert [type(module).__name__ for module in demo.vae.modules()] == modules
    own, shared = ({weight.data_ptr() for weight in vae.parameters()} for vae in (demo.vae, twin))
    assert shared == own
