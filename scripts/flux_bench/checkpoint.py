"""The checkpoint that every system serves."""

from __future__ import annotations

from pathlib import Path

from flux_serving.settings import Checkpoints

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "checkpoints" / "demo"
CHECKPOINTS = Checkpoints(FOLDER / "flux-base", FOLDER / "flux-redux")
