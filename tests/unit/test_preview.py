"""Previews from latents: their error, and that they do not change the latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from conftest import DEMO, ROOT
from flux_contract.limits import PREVIEW_METHODS
from flux_serving.network.latents import Grid, pack_latents
from flux_serving.network.weights import BaseWeights, load_base
from flux_serving.sampling.preview import Previewer, encode, shrunk, synthetic_images
from flux_serving.settings import Checkpoints

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def demo() -> BaseWeights:
    return load_base(DEMO, CPU, torch.float32)


@pytest.fixture(scope="module")
def previewer(demo: BaseWeights) -> Previewer:
    return Previewer(demo)


def unseen_images(side: int) -> torch.Tensor:
    """Returns images outside the fit, (images, 3, side, side), 0..1."""
    images = []
    for path in sorted(Path(ROOT, "tools/flux_tools/demo/unseen").glob("*.png")):
        with Image.open(path) as image:
            rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        white.alpha_composite(rgba)
        images.append(np.array(white.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(images)).movedim(-1, 1) / 255


def test_latent2rgb_is_close_for_images_outside_the_fit(demo: BaseWeights, previewer: Previewer) -> None:
    """The mean error is 18.9 of 255 levels. A single colour for all images has an error of 52.5 levels."""
    images = unseen_images(64)
    expected = (adaptive_avg_pool2d(images, (8, 8)).movedim(1, -1) * 255).numpy()
    packed = pack_latents(encode(demo, images))
    previews = np.stack([previewer.latent2rgb(latents, Grid(4, 4)) for latents in packed])
    assert previews.shape == expected.shape
    assert previews.dtype == np.uint8
    error = np.abs(previews - expected).mean()
    assert error < 22
    assert np.abs(expected - expected.mean((0, 1, 2))).mean() > 2.4 * error


def test_latent2rgb_is_deterministic(demo: BaseWeights, previewer: Previewer) -> None:
    latents = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    assert (Previewer(demo).latent2rgb(latents, Grid(4, 4)) == previewer.latent2rgb(latents, Grid(4, 4))).all()


@pytest.mark.slow
def test_checkpoint_with_other_channels_and_scale_factor_has_previews(random_checkpoints: Checkpoints) -> None:
    base = load_base(random_checkpoints, CPU, torch.float32)
    previewer = Previewer(base)
    latents = torch.randn(3 * 5, 32, generator=torch.Generator().manual_seed(1))
    assert previewer.preview("latent2rgb", latents, Grid(3, 5), 256).shape == (6, 10, 3)
    assert previewer.preview("vae", latents, Grid(3, 5), 256).shape == (24, 40, 3)


@pytest.mark.parametrize("method", PREVIEW_METHODS)
def test_preview_does_not_change_the_latents(previewer: Previewer, method: str) -> None:
    latents = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    before = latents.clone()
    previewer.preview(method, latents, Grid(4, 4), 256)
    assert torch.equal(latents, before)


def test_vae_preview_is_the_averaged_decoded_image(previewer: Previewer) -> None:
    latents = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    whole = previewer.preview("vae", latents, Grid(4, 4), 64)
    half = previewer.preview("vae", latents, Grid(4, 4), 63)
    assert whole.shape == (64, 64, 3)
    assert half.shape == (32, 32, 3)
    assert np.abs(whole.reshape(32, 2, 32, 2, 3).mean((1, 3)) - half).max() <= 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_latents_have_a_preview(previewer: Previewer, bad: float) -> None:
    assert previewer.latent2rgb(torch.full((16, 64), bad), Grid(4, 4)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("shape", "expected"), [((256, 256), (256, 256)), ((300, 200), (150, 100)), ((2048, 1024), (256, 128))]
)
def test_no_side_is_longer_than_requested(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrunk(np.zeros((*shape, 3), np.uint8), 256).shape == (*expected, 3)


def test_synthetic_images_are_in_range_and_differ() -> None:
    images = synthetic_images(6, 32, seed=1)
    assert images.shape == (6, 3, 32, 32)
    assert 0 <= float(images.min()) < 0.1
    assert 0.9 < float(images.max()) <= 1
    assert len({tuple(image.flatten().tolist()) for image in images}) == 6
