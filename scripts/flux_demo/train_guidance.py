"""Distil classifier-free guidance into the guidance embedding, as FLUX.1-dev's was: one forward instead of two.

The teacher is the trained flow, with and without the picture; at guidance g the transformer learns
`without + g * (with - without)`. The vision tower and the embedder stay as they are.
Source: Meng et al. 2023, "On Distillation of Guided Diffusion Models", stage one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from flux_demo.pictures import Picture, augmented
from flux_demo.progress import MovingAverage, Run, averaged_weights, learning_rate
from flux_demo.train_flow import BATCH, COPIES, GRID, ReduxFlow, encode_latents
from flux_demo.train_vae import to_model_range

PEAK_RATE = 5e-4
GUIDANCE = (1.0, 5.0)


def train_guidance(
    trained_on: list[Picture], vae_run: Path, flow_run: Path, folder: Path, steps: int, seed: int = 0
) -> None:
    """Resumable. The run's averaged weights are those of the whole flow."""
    run = Run(folder)
    pictures = augmented(trained_on, COPIES, seed + 1)
    latents, _ = encode_latents(vae_run, pictures.reshape(-1, 64, 64, 3))
    latents = latents.reshape(COPIES, len(trained_on), GRID * GRID, 64)
    teacher, student = ReduxFlow(), ReduxFlow()
    for flow in (teacher, student):
        flow.load_state_dict(averaged_weights(flow_run))
    optimizer = torch.optim.AdamW(student.transformer.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98))
    average = MovingAverage(student, 0.99)
    losses: list[float] = []
    with_picture, without = torch.ones(BATCH, dtype=torch.bool), torch.zeros(BATCH, dtype=torch.bool)
    for step in range(run.resume(student, optimizer, average), steps):
        rng = np.random.default_rng((seed, 2, step))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + 500_000 + step)
        index = rng.integers(0, len(trained_on), BATCH)
        target = latents[torch.from_numpy(rng.integers(0, COPIES, BATCH)), torch.from_numpy(index)]
        t = torch.sigmoid(torch.randn(BATCH, generator=generator) + 0.4)
        noisy = torch.lerp(target, torch.randn(target.shape, generator=generator), t[:, None, None])
        guidance = torch.from_numpy(rng.uniform(*GUIDANCE, BATCH)).float()
        with torch.no_grad():
            context = teacher.context(to_model_range(pictures[rng.integers(0, COPIES, BATCH), index]))
            conditional = teacher.velocity(noisy, context, with_picture, t, guidance)
            unconditional = teacher.velocity(noisy, context, without, t, guidance)
            guided = torch.lerp(unconditional, conditional, guidance[:, None, None])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_RATE, 50)
        loss = (student.velocity(noisy, context, with_picture, t, guidance) - guided).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.transformer.parameters(), 1.0)
        optimizer.step()
        average.update(student, step)
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            run.log(step=step + 1, loss=round(float(np.mean(losses)), 4))
            losses.clear()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            run.save(student, optimizer, average, step + 1)
