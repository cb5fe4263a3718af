"""Trains a ControlNet for Canny edges. The weights of the flow are frozen.

The edges are those of the target: they specify the shapes, and a prompt or nothing specifies the content.
"""

from __future__ import annotations

from pathlib import Path

import torch

from flux_tools.demo.images import DemoImage
from flux_tools.training.examples import Examples, Mixture
from flux_tools.training.flow import GUIDANCE, Latents
from flux_tools.training.following import canny, follows
from flux_tools.training.networks import Flow, TrainedControlNet
from flux_tools.training.progress import MovingAverage, TrainingRun, averaged_weights, descend, learning_rate
from flux_tools.training.vocabulary import read_tokenizers

PEAK_RATE = 1e-3
#: Number of the first example; the training of the flow and of its guidance used smaller numbers.
FIRST_STEP = 2_000_000
#: Held-out images for the log, and held-out images for the final measurement.
CHECKED = slice(0, 240, 8)
MEASURED = slice(0, 200, 2)

MIXTURE = Mixture(
    ways={"image": 0.1, "remix": 0.15, "words": 0.6, "both": 0.15},
    levels=dict.fromkeys(("image", "remix", "words", "both"), 1.0),
    nothing_share=0.25,
    always_native=("remix",),
    native_share=0.8,
    batch=24,
)


def train_control(
    trained_on: list[DemoImage],
    held_out: list[DemoImage],
    vae_run: Path,
    text_run: Path,
    guidance_run: Path,
    folder: Path,
    steps: int,
    seed: int = 0,
) -> None:
    """Train the ControlNet in `folder`, from the last saved state if there is one."""
    run = TrainingRun(folder)
    latents = Latents(vae_run, trained_on)
    examples = Examples(trained_on, latents, seed, latents.cache, MIXTURE)
    shown = examples.encoded(canny)
    flow = Flow(read_tokenizers(text_run)).eval().requires_grad_(False)
    flow.load_state_dict(averaged_weights(guidance_run))
    control, averaged = TrainedControlNet(), TrainedControlNet()
    control.start_from(flow.transformer)
    optimizer = torch.optim.AdamW(control.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-2)
    average = MovingAverage(control, 0.998)
    for step in range(run.resume(control, optimizer, average), steps):
        example = examples.draw(FIRST_STEP + step, GUIDANCE)
        given = (example.noisy, example.condition(flow), example.t, example.guidance, example.rows, example.columns)
        velocity = flow.velocity(*given, control(shown.shown_in(example), *given))
        loss = (velocity - (example.noise - example.target)).square().mean()
        descend(loss, optimizer, learning_rate(step, steps, PEAK_RATE, 100))
        average.update(control, step)
        run.add_loss(step, loss, log_every=50)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            run.save(control, optimizer, average, step + 1)
            averaged.load_state_dict(average.weights)
            run.log(step=step + 1, **follows(flow, latents, held_out[CHECKED], averaged))
    averaged.load_state_dict(average.weights)
    measured = {
        name: follows(flow, latents, held_out[MEASURED], either)
        for name, either in (("controlled", averaged), ("uncontrolled", None))
    }
    run.log(step=steps, **measured)
