"""Do drawings follow the edges that were asked for? Held-out images' edges, with their names as prompts."""

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

#: As diffusers' guides have them.
CANNY = (100, 200)
STEPS = 20
GUIDANCE = 2.5
SEED = 1
#: In pixels.
DISTANCES = (0, 1, 2)


def canny(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(m, height, width, 3) uint8 to white edges on black, three equal channels."""
    return np.stack([np.repeat(edges(image, *CANNY)[..., None], 3, axis=2) for image in rgb])


def f1(asked: npt.NDArray[np.uint8], drawn: npt.NDArray[np.uint8], distance: int) -> float:
    """Of two edge images, (height, width): 1 if each edge is within so many pixels of one of the other, 0 if none.

    The harmonic mean of the shares of either's pixels that are near. The distance is the larger of both axes'.
    """
    if not asked.any() or not drawn.any():
        return 0.0
    precision, recall = (_widened(there, distance)[here > 0].mean() for here, there in ((drawn, asked), (asked, drawn)))
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _widened(edges: npt.NDArray[np.uint8], distance: int) -> npt.NDArray[np.bool_]:
    """Whether a pixel is within this distance of an edge."""
    widened = max_pool2d(torch.from_numpy(edges).float()[None], 2 * distance + 1, stride=1, padding=distance)
    return widened[0].numpy() > 0


@torch.no_grad()
def drawn(
    flow: Flow, latents: Latents, images: Sequence[DemoImage], control: TrainedControlNet | None
) -> npt.NDArray[np.uint8]:
    """What the flow draws of their names, (n, 64, 64, 3) uint8; with a control, along their edges.

    The first has seed SEED, each next one more.
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
    """Mean F1 between the images' edges and those of what is drawn, within each distance."""
    asked = canny(np.stack([image.rgb for image in images]))[..., 0]
    found = canny(drawn(flow, latents, images, control))[..., 0]
    pairs = list(zip(asked, found, strict=True))
    return {f"f1_within_{distance}": round(fmean(f1(*pair, distance) for pair in pairs), 3) for distance in DISTANCES}
