"""Train the transformer, the vision tower and the Redux embedder together, by flow matching on the VAE's latents.

The condition is another augmented copy of the target, so that copying it does not help. The text is one zero token of
weight 512, as in serving. In one of ten examples the picture's tokens weigh nothing, so that the network also knows
what to draw without a picture.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from torch import Tensor, nn

from flux_demo.architecture import (
    CONTEXT_WIDTH,
    POOLED_WIDTH,
    TEXT_TOKENS,
    new_image_embedder,
    new_image_encoder,
    new_transformer,
    new_vae,
)
from flux_demo.pictures import Picture, augmented
from flux_demo.progress import MovingAverage, Run, averaged_weights, learning_rate
from flux_demo.train_vae import to_model_range

COPIES = 8
BATCH = 48
PEAK_RATE = 1.5e-3
DROP_SHARE = 0.1
GRID = 4  # 64 pixels / 16 pixels a token


class ReduxFlow(nn.Module):
    """Everything that the flow loss trains, at the compact widths."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = new_image_encoder()
        self.image_embedder = new_image_embedder()
        self.transformer = new_transformer()

    def context(self, condition: Tensor) -> Tensor:
        """(n, 3, 64, 64) in -1..1 -> (n, 1 + 16, context width): one zero text token, then the picture's tokens."""
        hidden = self.image_encoder(pixel_values=condition).last_hidden_state
        tokens = self.image_embedder(hidden).image_embeds
        return torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)

    def velocity(self, noisy: Tensor, context: Tensor, has_picture: Tensor, t: Tensor, guidance: Tensor) -> Tensor:
        """noisy: (n, 16, 64) packed latents; t: (n,) in 0..1; has_picture: (n,) bool. Returns the shape of `noisy`."""
        bias = noisy.new_zeros(len(noisy), context.shape[1] + noisy.shape[1])
        bias[:, 0] = math.log(TEXT_TOKENS)
        bias[:, 1 : context.shape[1]].masked_fill_(~has_picture[:, None], -math.inf)
        return self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=context,
            pooled_projections=noisy.new_zeros(len(noisy), POOLED_WIDTH),
            timestep=t,
            guidance=guidance,
            img_ids=FluxPipeline._prepare_latent_image_ids(1, GRID, GRID, noisy.device, noisy.dtype),
            txt_ids=noisy.new_zeros(context.shape[1], 3),
            joint_attention_kwargs={"attention_mask": bias[:, None, None, :]},
            return_dict=False,
        )[0]


@torch.no_grad()
def encode_latents(vae_run: Path, pictures: np.ndarray) -> tuple[Tensor, dict[str, float]]:
    """(m, 64, 64, 3) uint8 -> packed latents (m, 16, 64) of unit variance, and the VAE's scaling and shift."""
    vae = new_vae().eval()
    vae.load_state_dict(averaged_weights(vae_run))
    latents = torch.cat([vae.encode(to_model_range(b)).latent_dist.mode() for b in np.array_split(pictures, 200)])
    statistics = {"shift_factor": float(latents.mean()), "scaling_factor": float(1 / latents.std())}
    latents = (latents - statistics["shift_factor"]) * statistics["scaling_factor"]
    return FluxPipeline._pack_latents(latents, len(latents), 16, 2 * GRID, 2 * GRID), statistics


def train_flow(trained_on: list[Picture], vae_run: Path, folder: Path, steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    run = Run(folder)
    pictures = augmented(trained_on, COPIES, seed + 1)
    latents, statistics = encode_latents(vae_run, pictures.reshape(-1, 64, 64, 3))
    latents = latents.reshape(COPIES, len(trained_on), GRID * GRID, 64)
    (folder / "latents.json").write_text(json.dumps(statistics))
    flow = ReduxFlow()
    assert flow.transformer.config.joint_attention_dim == CONTEXT_WIDTH
    optimizer = torch.optim.AdamW(flow.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-2)
    average = MovingAverage(flow, 0.999)
    recent: list[float] = []
    for step in range(run.resume(flow, optimizer, average), steps):
        rng = np.random.default_rng((seed, 1, step))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = rng.integers(0, len(trained_on), BATCH)
        target = latents[torch.from_numpy(rng.integers(0, COPIES, BATCH)), torch.from_numpy(index)]
        condition = to_model_range(pictures[rng.integers(0, COPIES, BATCH), index])
        has_picture = torch.from_numpy(rng.random(BATCH) >= DROP_SHARE)
        noise = torch.randn(target.shape, generator=generator)
        t = torch.sigmoid(torch.randn(BATCH, generator=generator) + 0.4)
        guidance = torch.from_numpy(rng.uniform(1, 5, BATCH)).float()
        noisy = torch.lerp(target, noise, t[:, None, None])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_RATE, 200)
        velocity = flow.velocity(noisy, flow.context(condition), has_picture, t, guidance)
        loss = (velocity - (noise - target)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        average.update(flow, step)
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            run.log(step=step + 1, loss=round(float(np.mean(recent)), 4))
            recent.clear()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            run.save(flow, optimizer, average, step + 1)
