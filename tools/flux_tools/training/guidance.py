"""Distils classifier-free guidance into the guidance embedding, as in FLUX.1-dev: one forward pass instead of two.

The teacher is the trained flow. At guidance g, the transformer learns `without + g * (with - without)`: the teacher's
velocities without and with the condition. The encoders and the embedder are frozen.
Source: Meng et al. 2023, "On Distillation of Guided Diffusion Models", stage one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from flux_tools.demo.images import DemoImage
from flux_tools.training.examples import Examples
from flux_tools.training.flow import GUIDANCE, Latents
from flux_tools.training.networks import Flow
from flux_tools.training.progress import MovingAverage, TrainingRun, averaged_weights, descend, learning_rate
from flux_tools.training.vocabulary import read_tokenizers

PEAK_RATE = 5e-4
#: Number of the first example; the training of the flow used smaller numbers.
FIRST_STEP = 1_000_000


def train_guidance(
    trained_on: list[DemoImage], vae_run: Path, text_run: Path, flow_run: Path, folder: Path, steps: int, seed: int = 0
) -> None:
    """Train the guidance in `folder`, from the last saved state if there is one.

    The run saves the averaged weights of the whole flow.
    """
    run = TrainingRun(folder)
    tokenizers = read_tokenizers(text_run)
    latents = Latents(vae_run, trained_on)
    examples = Examples(trained_on, latents, seed, latents.cache)
    teacher, student = Flow(tokenizers), Flow(tokenizers)
    for flow in (teacher, student):
        flow.load_state_dict(averaged_weights(flow_run))
    optimizer = torch.optim.AdamW(student.transformer.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98))
    average = MovingAverage(student, 0.99)
    for step in range(run.resume(student, optimizer, average), steps):
        example = examples.draw(FIRST_STEP + step, GUIDANCE)
        grid = (example.rows, example.columns)
        with torch.no_grad():
            condition = example.condition(teacher)
            with_it = teacher.velocity(example.noisy, condition, example.t, example.guidance, *grid)
            without = teacher.velocity(
                example.noisy, example.unconditional(teacher), example.t, example.guidance, *grid
            )
            guided = torch.lerp(without, with_it, example.guidance[:, None, None])
        velocity = student.velocity(example.noisy, condition, example.t, example.guidance, *grid)
        loss = (velocity - guided).square().mean()
        descend(loss, optimizer, learning_rate(step, steps, PEAK_RATE, 50))
        average.update(student, step)
        run.add_loss(step, loss, log_every=25)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            run.save(student, optimizer, average, step + 1)
