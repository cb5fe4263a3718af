"""Trains the autoencoder with an L1 loss, a squared error, the L1 of the gradients, and a KL term.

The KL term is small, because a large one would lose colours. The training has three parts. The second and third use
more copies of the images and the logarithm of the squared error, which is proportional to the PSNR, so that images
with a small error still count. The third part trains only the decoder: the latents do not change, so the flow can be
trained on them at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flux_tools.demo.architecture import new_vae
from flux_tools.demo.images import DemoImage
from flux_tools.training.augmentation import augmented
from flux_tools.training.progress import MovingAverage, TrainingRun, descend, learning_rate

BATCH = 16
KL_WEIGHT = 1e-4
#: Weight of the logarithm of an image's squared error.
LOG_WEIGHT = 0.03


@dataclass(frozen=True)
class VaeSchedule:
    """One part of the training.

    copies: copies of each image, all but one augmented. by_logarithm: whether the loss has the logarithm of the squared
    error. encoder: whether the encoder is trained.
    """

    steps: int
    peak_rate: float
    warm_up: int
    copies: int
    by_logarithm: bool
    encoder: bool


COURSES = (
    VaeSchedule(steps=3300, peak_rate=2e-3, warm_up=100, copies=6, by_logarithm=False, encoder=True),
    VaeSchedule(steps=2000, peak_rate=1e-3, warm_up=100, copies=24, by_logarithm=True, encoder=True),
    VaeSchedule(steps=3000, peak_rate=7e-4, warm_up=100, copies=24, by_logarithm=True, encoder=False),
)


def to_model_range(rgb: npt.NDArray[np.uint8]) -> Tensor:
    """Convert (n, h, w, 3) uint8 to (n, 3, h, w) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(decoded: Tensor, target: Tensor, kl: Tensor, by_logarithm: bool) -> Tensor:
    error = decoded - target
    gradients = [error.diff(dim=axis).abs().mean() for axis in (2, 3)]
    squares = error.square().mean(dim=(1, 2, 3))
    square = LOG_WEIGHT * (squares + 1e-5).log().mean() if by_logarithm else squares.mean()
    return error.abs().mean() + square + sum(gradients) + KL_WEIGHT * kl


@torch.no_grad()
def psnr(weights: dict[str, Tensor], held_out: list[DemoImage]) -> float:
    """Return the mean PSNR in dB of encoding and decoding the held-out images."""
    vae = new_vae().eval()
    vae.load_state_dict(weights)
    values = []
    for batch in to_model_range(np.stack([p.rgb for p in held_out])).split(50):
        decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((decoded - batch) * 0.5).square().mean(dim=(1, 2, 3))
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())


def train_vae(trained_on: list[DemoImage], held_out: list[DemoImage], folder: Path, seed: int = 0) -> None:
    """Train the autoencoder in `folder`, from the last saved state if there is one."""
    torch.manual_seed(seed)
    run = TrainingRun(folder)
    originals = np.stack([image.rgb for image in trained_on])
    vae = new_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.98), weight_decay=1e-4)
    average = MovingAverage(vae, 0.998)
    done, last = run.resume(vae, optimizer, average), 0
    for number, course in enumerate(COURSES):
        first, last = last, last + course.steps
        if done >= last:
            continue
        if done <= first and not course.encoder:
            vae.load_state_dict(average.weights)
        vae.encoder.requires_grad_(course.encoder)
        images = augmented(originals, course.copies, seed + 10 * number).reshape(-1, 64, 64, 3)
        for step in range(max(done, first), last):
            rng = np.random.default_rng((seed, step))
            batch = to_model_range(images[rng.integers(0, len(images), BATCH)])
            batch = batch.to(memory_format=torch.channels_last)
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
            kl = posterior.kl().mean() / (3 * 64 * 64)
            loss = loss_of(decoded, batch, kl, course.by_logarithm)
            descend(loss, optimizer, learning_rate(step - first, course.steps, course.peak_rate, course.warm_up))
            average.update(vae, step)
            if step % 50 == 0:
                run.log(step=step, loss=round(loss.item(), 4))
            if (step + 1) % 500 == 0 or step + 1 == last:
                run.log(step=step + 1, held_out_psnr_db=round(psnr(average.weights, held_out), 2))
                run.save(vae, optimizer, average, step + 1)
