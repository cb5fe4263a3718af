"""Functions that the stages share: moving average, optimizer step, learning rate, and resumable runs."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Return the learning rate: a linear warm-up, then a cosine decay to 1% of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Do one optimizer step at this learning rate, with gradients clipped to a norm of 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


class TrainingRun:
    """The folder of a training run: `log.jsonl`, and the state to resume from with the averaged weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._losses: list[float] = []

    def log(self, **row: Any) -> None:
        row["seconds"] = round(time.monotonic() - self._started, 1)
        line = json.dumps(row)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def add_loss(self, step: int, loss: Tensor, log_every: int) -> None:
        """Add the loss of this step. After every `log_every` steps, log the mean of the losses since the last log."""
        self._losses.append(loss.item())
        if (step + 1) % log_every == 0:
            self.log(step=step + 1, loss=round(fmean(self._losses), 4))
            self._losses.clear()

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage, step: int) -> None:
        """Save the state. step: number of completed steps."""
        state = {"weights": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights}
        temporary = self.folder / "state.pt.part"
        torch.save({**state, "step": step}, temporary)
        temporary.replace(self.folder / "state.pt")

    def resume(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage) -> int:
        """Load the last saved state. Returns the step to continue with, 0 for a new run."""
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = state["average"]
        return int(state["step"])


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights that the run in this folder saved last."""
    weights: dict[str, Tensor] = torch.load(folder / "state.pt", weights_only=True)["average"]
    return weights
