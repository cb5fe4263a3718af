"""Pre-trains T5 to predict images from captions, before the flow is trained.

Two linear heads, which are discarded afterwards, predict the latents of an image from the tokens and the padding of
its caption. The flow must learn the same relation through noise, which hides most of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flux_tools.demo.architecture import CONTEXT_WIDTH
from flux_tools.demo.images import DemoImage
from flux_tools.demo.text import new_t5, t5_tokenizer
from flux_tools.training.captions import captions
from flux_tools.training.flow import Latents
from flux_tools.training.networks import t5_tokens
from flux_tools.training.progress import MovingAverage, TrainingRun, descend, learning_rate
from flux_tools.training.vocabulary import keep_tokenizers

BATCH = 256
PEAK_RATE = 1.5e-3


class Teller(nn.Module):
    """Predicts latents from captions twice: from the mean of the prompt's tokens, and from the padding."""

    def __init__(self, tokenizers: dict[str, str], size: int) -> None:
        super().__init__()
        self.tokenizer = t5_tokenizer(tokenizers)
        self.text_encoder_2 = new_t5(len(self.tokenizer))
        self.heads = nn.ModuleList(nn.Linear(CONTEXT_WIDTH, size) for _ in range(2))

    def forward(self, prompts: list[str]) -> list[Tensor]:
        states, weights = t5_tokens(self.text_encoder_2, self.tokenizer, prompts)
        own = weights[:, :-1, None]
        told = ((states[:, :-1] * own).sum(1) / own.sum(1), states[:, -1])
        return [head(one) for head, one in zip(self.heads, told, strict=True)]

    def error(self, prompts: list[str], targets: Tensor) -> Tensor:
        return torch.stack([(one - targets).square().mean() for one in self(prompts)]).mean()


def train_text(trained_on: list[DemoImage], held_out: list[DemoImage], vae_run: Path, folder: Path, steps: int) -> None:
    """Train T5 in `folder`, from the last saved state if there is one.

    The run also stores the vocabularies of T5 and CLIP.
    """
    torch.manual_seed(0)
    run = TrainingRun(folder)
    encode = Latents(vae_run, trained_on)
    targets, unseen = (
        encode(np.stack([one.rgb for one in of_these])).flatten(1) for of_these in (trained_on, held_out)
    )
    names, new_names = [captions(image) for image in trained_on], [captions(image)[0] for image in held_out]
    teller = Teller(keep_tokenizers(folder, (text for texts in names for text in texts)), targets.shape[1])
    optimizer = torch.optim.AdamW(teller.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.1)
    average = MovingAverage(teller, 0.99)
    for step in range(run.resume(teller, optimizer, average), steps):
        rng = np.random.default_rng((0, step))
        index = rng.integers(0, len(names), BATCH)
        loss = teller.error([names[i][rng.integers(len(names[i]))] for i in index], targets[index])
        descend(loss, optimizer, learning_rate(step, steps, PEAK_RATE, 50))
        average.update(teller, step)
        if (step + 1) % 50 == 0:
            with torch.no_grad():
                of_new = teller.error(new_names, unseen).item()
            run.log(step=step + 1, loss=round(loss.item(), 4), held_out=round(of_new, 4))
        if (step + 1) % 200 == 0 or step + 1 == steps:
            run.save(teller, optimizer, average, step + 1)
