"""Draws the learning curves of docs/demo-checkpoint.md from the logs of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

#: Folder of the run, the fields of its log to draw, and the title.
PANELS = (
    ("vae", ("held_out_psnr_db",), "autoencoder: PSNR of held-out images, dB"),
    ("flow", ("image", "both", "words", "remix"), "flow: loss by condition"),
    ("guidance", ("loss",), "guidance: distance from the teacher, squared"),
    ("control", ("f1_within_2",), "edges: F1 within 2 pixels, held-out images"),
    ("lora", ("loss",), "black and white: loss"),
)
#: Colours that colour-blind readers can distinguish. Source: Okabe and Ito.
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")
#: Number of log rows in the moving average.
SMOOTHED = 10


def draw_curves(runs: Path, image: Path) -> None:
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(20, 3.2), layout="constrained")
    for axis, (name, values, title) in zip(axes, PANELS, strict=True):
        rows: list[dict[str, Any]] = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        for value, colour in zip(values, COLOURS, strict=False):
            points = {row["step"]: row[value] for row in rows if value in row}
            steps = sorted(points)
            smooth = smoothed([points[step] for step in steps]) if len(values) > 1 else [points[step] for step in steps]
            axis.plot(steps, smooth, color=colour, linewidth=1.2, label=value)
        if len(values) > 1:
            axis.legend(frameon=False, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#dddddd", linewidth=0.6)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)
    pyplot.close(figure)


def smoothed(values: list[float]) -> list[float]:
    """Return the moving average over at most SMOOTHED values."""
    return [fmean(values[max(0, end - SMOOTHED) : end]) for end in range(1, len(values) + 1)]
