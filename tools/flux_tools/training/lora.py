"""Trains a LoRA adapter that generates black-and-white images. The weights of the flow are frozen.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from flux_tools.demo.images import DemoImage
from flux_tools.training.examples import Examples
from flux_tools.training.flow import GUIDANCE, Latents
from flux_tools.training.networks import Flow
from flux_tools.training.progress import MovingAverage, TrainingRun, averaged_weights, descend, learning_rate
from flux_tools.training.vocabulary import read_tokenizers

RANK = 4
#: Adapted layers of the transformer's blocks: the projections of attention, and the output of the single blocks.
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "proj_out")
PEAK_RATE = 2e-3
#: Number of the first example; the other trainings used smaller numbers.
FIRST_STEP = 3_000_000


class LoraLayer(nn.Module):
    """A linear layer plus a low-rank update of rank RANK, which is zero at first."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Linear(linear.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, linear.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, values: Tensor) -> Tensor:
        changed: Tensor = self.linear(values) + self.lora_B(self.lora_A(values))
        return changed


def adapt(transformer: nn.Module) -> None:
    """Replace each adapted layer by a `LoraLayer`."""
    for name, module in list(transformer.named_modules()):
        if "blocks." in name and name.endswith(ADAPTED):
            transformer.set_submodule(name, LoraLayer(module))


def adapter_weights(run: Path) -> dict[str, Tensor]:
    """Return the weights by name: `transformer.LAYER.lora_A.weight` and `transformer.LAYER.lora_B.weight`.

    Source: diffusers' `FluxPipeline.save_lora_weights`.
    """
    return {f"transformer.{name}": weight for name, weight in averaged_weights(run).items() if ".lora_" in name}


def greyscale(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the luminance (ITU-R 601) of (m, height, width, 3) uint8, in three equal channels."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in rgb])


def train_lora(
    trained_on: list[DemoImage], vae_run: Path, text_run: Path, guidance_run: Path, folder: Path, steps: int
) -> None:
    """Train the adapter in `folder`, from the last saved state if there is one."""
    torch.manual_seed(0)
    run = TrainingRun(folder)
    latents = Latents(vae_run, trained_on)
    examples = Examples(trained_on, latents, 0, latents.cache)
    grey = examples.encoded(greyscale)
    flow = Flow(read_tokenizers(text_run)).requires_grad_(False)
    flow.load_state_dict(averaged_weights(guidance_run))
    adapt(flow.transformer)
    learning = [weight for weight in flow.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    average = MovingAverage(flow.transformer, 0.99)
    for step in range(run.resume(flow.transformer, optimizer, average), steps):
        coloured = examples.draw(FIRST_STEP + step, GUIDANCE)
        example = replace(coloured, target=grey.shown_in(coloured))
        velocity = flow.velocity(
            example.noisy, example.condition(flow), example.t, example.guidance, example.rows, example.columns
        )
        loss = (velocity - (example.noise - example.target)).square().mean()
        descend(loss, optimizer, learning_rate(step, steps, PEAK_RATE, 50))
        average.update(flow.transformer, step)
        run.add_loss(step, loss, log_every=25)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            run.save(flow.transformer, optimizer, average, step + 1)
