"""The learning curves of docs/demo-checkpoint.md, from the runs' logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

#: Folder of the run, what is drawn of its log, and what that is.
PANELS = (
    ("vae", "held_out_psnr_db", "autoencoder: PSNR of held-out pictures, dB"),
    ("flow", "loss", "flow: loss"),
    ("guidance", "loss", "guidance: distance from the teacher, squared"),
)


def draw_curves(runs: Path, picture: Path) -> None:
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(12, 3.2), layout="constrained")
    for axis, (name, value, title) in zip(axes, PANELS, strict=True):
        rows: list[dict[str, Any]] = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        points = {row["step"]: row[value] for row in rows if value in row}
        steps = sorted(points)
        axis.plot(steps, [points[step] for step in steps], color="#0072B2", linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#dddddd", linewidth=0.6)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
