"""Trains the transformer, the encoders and the Redux embedder together, by flow matching on the VAE's latents."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file
from torch import Tensor

from flux_serving.network.latents import Grid, unpack_latents
from flux_tools.demo.architecture import new_vae
from flux_tools.demo.images import DemoImage
from flux_tools.training.examples import Examples
from flux_tools.training.networks import Flow
from flux_tools.training.progress import MovingAverage, TrainingRun, averaged_weights, descend, learning_rate
from flux_tools.training.vae import to_model_range
from flux_tools.training.vocabulary import read_tokenizers

PEAK_RATE = 1.5e-3
GUIDANCE = (1.0, 5.0)


class Latents:
    """Encodes images as packed latents of zero mean and unit variance, and decodes them."""

    def __init__(self, vae_run: Path, images: list[DemoImage]) -> None:
        """images: the images whose latents define the mean and the variance."""
        self._vae = new_vae().eval()
        self._vae.load_state_dict(averaged_weights(vae_run))
        encoder = b"".join(weight.numpy().tobytes() for weight in self._vae.encoder.state_dict().values())
        self.cache = vae_run / f"latents-{hashlib.sha256(encoder).hexdigest()[:8]}.pt"
        self._images = images

    @cached_property
    def statistics(self) -> dict[str, float]:
        """Return the shift and the scaling factor, named as in the configuration of an AutoencoderKL."""
        raw = self._encode(np.stack([image.rgb for image in self._images]))
        return {"shift_factor": float(raw.mean()), "scaling_factor": float(1 / raw.std())}

    def __call__(self, rgb: npt.NDArray[np.uint8]) -> Tensor:
        """Encode (m, height, width, 3) uint8. Returns (m, tokens, 64)."""
        latents = (self._encode(rgb) - self.statistics["shift_factor"]) * self.statistics["scaling_factor"]
        packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
        return packed

    @torch.no_grad()
    def decoded(self, packed: Tensor, grid: Grid) -> npt.NDArray[np.uint8]:
        """Decode (m, tokens, 64). Returns (m, height, width, 3) uint8."""
        latents = unpack_latents(packed, grid) / self.statistics["scaling_factor"] + self.statistics["shift_factor"]
        rgb = torch.cat([self._vae.decode(part).sample for part in latents.split(64)]).clamp(-1, 1)
        return ((rgb + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()

    @torch.no_grad()
    def _encode(self, rgb: npt.NDArray[np.uint8]) -> Tensor:
        parts = np.array_split(rgb, max(1, rgb.size // (64 * 64 * 3 * 64)))
        return torch.cat([self._vae.encode(to_model_range(part)).latent_dist.mode() for part in parts])


def start_from(flow: Flow, asset: Path) -> None:
    """Load the weights of the image encoders and the transformer from an earlier asset, where the shapes match."""
    own = flow.state_dict()
    for name, weight in load_file(asset).items():
        if name.startswith(("image_", "transformer.")) and weight.shape == own[name].shape:
            own[name] = weight.float()
    flow.load_state_dict(own)


def start_with_words(flow: Flow, text_run: Path) -> None:
    """Load the T5 that the stage `text` trained."""
    prefix = "text_encoder_2."
    known = {k.removeprefix(prefix): w for k, w in averaged_weights(text_run).items() if k.startswith(prefix)}
    flow.text_encoder_2.load_state_dict(known)


def train_flow(
    trained_on: list[DemoImage],
    vae_run: Path,
    text_run: Path,
    folder: Path,
    steps: int,
    earlier: Path | None,
    seed: int = 0,
) -> None:
    """Train the flow in `folder`, from the last saved state if there is one.

    earlier: an asset whose weights a new run starts with.
    """
    torch.manual_seed(seed)
    run = TrainingRun(folder)
    latents = Latents(vae_run, trained_on)
    (folder / "latents.json").write_text(json.dumps(latents.statistics))
    examples = Examples(trained_on, latents, seed, latents.cache)
    flow = Flow(read_tokenizers(text_run))
    if earlier is not None:
        start_from(flow, earlier)
    start_with_words(flow, text_run)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-2)
    average = MovingAverage(flow, 0.999)
    recent = defaultdict[str, list[float]](list)
    for step in range(run.resume(flow, optimizer, average), steps):
        example = examples.draw(step, GUIDANCE)
        velocity = flow.velocity(
            example.noisy, example.condition(flow), example.t, example.guidance, example.rows, example.columns
        )
        loss = (velocity - (example.noise - example.target)).square().mean()
        descend(loss, optimizer, learning_rate(step, steps, PEAK_RATE, 200))
        average.update(flow, step)
        recent["loss"].append(loss.item())
        recent[example.way].append(loss.item())
        if (step + 1) % 50 == 0:
            run.log(step=step + 1, **{name: round(float(np.mean(losses)), 4) for name, losses in recent.items()})
            recent.clear()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            run.save(flow, optimizer, average, step + 1)
