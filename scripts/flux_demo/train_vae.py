"""Train the autoencoder: L1, squared error and the L1 of the gradients, with a KL term small enough to keep colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flux_demo.architecture import new_vae
from flux_demo.pictures import Picture, augmented
from flux_demo.progress import MovingAverage, Run, learning_rate

COPIES = 6
BATCH = 16
PEAK_RATE = 2e-3
KL_WEIGHT = 1e-4


def to_model_range(rgb: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(decoded: Tensor, target: Tensor, kl: Tensor) -> Tensor:
    error = decoded - target
    gradients = [error.diff(dim=axis).abs().mean() for axis in (2, 3)]
    return error.abs().mean() + error.square().mean() + sum(gradients) + KL_WEIGHT * kl


@torch.no_grad()
def psnr(weights: dict[str, Tensor], held_out: list[Picture]) -> float:
    """Mean PSNR in dB of the round trip, on 8-bit pictures."""
    vae = new_vae().eval()
    vae.load_state_dict(weights)
    values = []
    for batch in to_model_range(np.stack([p.rgb for p in held_out])).split(50):
        decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((decoded - batch) * 0.5).square().mean(dim=(1, 2, 3))
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())


def train_vae(trained_on: list[Picture], held_out: list[Picture], folder: Path, steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    run = Run(folder)
    pictures = augmented(trained_on, COPIES, seed).reshape(-1, 64, 64, 3)
    vae = new_vae().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    average = MovingAverage(vae, 0.998)
    for step in range(run.resume(vae, optimizer, average), steps):
        rng = np.random.default_rng((seed, step))
        batch = to_model_range(pictures[rng.integers(0, len(pictures), BATCH)])
        batch = batch.to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_RATE, 100)
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        kl = posterior.kl().mean() / (3 * 64 * 64)
        loss = loss_of(decoded, batch, kl)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae, step)
        if step % 50 == 0:
            run.log(step=step, loss=round(loss.item(), 4))
        if (step + 1) % 500 == 0 or step + 1 == steps:
            run.log(step=step + 1, held_out_psnr_db=round(psnr(average.weights, held_out), 2))
            run.save(vae, optimizer, average, step + 1)
