"""Measures whether generated images follow the requested edges: those of held-out images, with names as prompts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import max_pool2d

from flux_serving.images.edges import edges
from flux_serving.network.latents import Grid, initial_noise
from flux_serving.sampling.noise_schedule import make_schedule
from flux_tools.demo.architecture import SCHEDULER
from flux_tools.demo.images import DemoImage
from flux_tools.training.captions import captions
from flux_tools.training.examples import NATIVE
from flux_tools.training.flow import Latents
from flux_tools.training.networks import Flow, TrainedControlNet

#: Low and high threshold. Source: the guides of diffusers.
CANNY = (100, 200)
STEPS = 20
GUIDANCE = 2.5
SEED = 1
#: Pixels.
DISTANCES = (0, 1, 2)


def canny(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return white edges on black, in three equal channels, for (m, height, width, 3) uint8."""
    return np.stack([np.repeat(edges(image, *CANNY)[..., None], 3, axis=2) for image in rgb])


def f1(asked: npt.NDArray[np.uint8], drawn: npt.NDArray[np.uint8], distance: int) -> float:
    """Return the F1 score of two edge images, (height, width): 1 if all edges match, 0 if none do.

    An edge pixel matches if the other image has one within `distance` pixels on both axes. F1 is the harmonic mean of
    the shares of matching pixels in each image.
    """
    if not asked.any() or not drawn.any():
        return 0.0
    precision, recall = (_widened(there, distance)[here > 0].mean() for here, there in ((drawn, asked), (asked, drawn)))
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _widened(edges: npt.NDArray[np.uint8], distance: int) -> npt.NDArray[np.bool_]:
    """Return for each pixel whether it is within this distance of an edge."""
    widened = max_pool2d(torch.from_numpy(edges).float()[None], 2 * distance + 1, stride=1, padding=distance)
    return widened[0].numpy() > 0


@torch.no_grad()
def drawn(
    flow: Flow, latents: Latents, images: Sequence[DemoImage], control: TrainedControlNet | None
) -> npt.NDArray[np.uint8]:
    """Generate an image for each image's name and, with a control, its edges. Returns (n, 64, 64, 3) uint8.

    The seeds are consecutive and start at SEED.
    """
    grid = Grid(*NATIVE)
    shown = latents(canny(np.stack([image.rgb for image in images])))
    noisy = torch.stack([initial_noise(SEED + i, grid, 16, torch.float32) for i in range(len(images))])
    condition = flow.condition(None, torch.zeros(len(images)), [captions(image)[0] for image in images])
    guidance = torch.full((len(images),), GUIDANCE)
    schedule = make_schedule(SCHEDULER, STEPS, grid.tokens)
    for sigma, following in zip(schedule.sigmas[:-1], schedule.sigmas[1:], strict=True):
        given = (noisy, condition, sigma.expand(len(images)), guidance, *NATIVE)
        residuals = control(shown, *given) if control is not None else None
        noisy = noisy + (following - sigma) * flow.velocity(*given, residuals)
    return latents.decoded(noisy, grid)


def follows(
    flow: Flow, latents: Latents, images: Sequence[DemoImage], control: TrainedControlNet | None
) -> dict[str, float]:
    """Return the mean F1 between the edges of the images and of the generated images, for each distance."""
    asked = canny(np.stack([image.rgb for image in images]))[..., 0]
    found = canny(drawn(flow, latents, images, control))[..., 0]
    pairs = list(zip(asked, found, strict=True))
    return {f"f1_within_{distance}": round(fmean(f1(*pair, distance) for pair in pairs), 3) for distance in DISTANCES}
