"""Locations of the demo checkpoint, which every system serves."""

from __future__ import annotations

from pathlib import Path

from flux_tools.demo.folders import demo_checkpoints

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "checkpoints" / "demo"
CHECKPOINTS = demo_checkpoints(FOLDER)
