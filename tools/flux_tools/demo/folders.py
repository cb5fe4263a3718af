"""The folders of the demo checkpoint. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from flux_serving.settings import Checkpoints


def demo_checkpoints(folder: Path) -> Checkpoints:
    """Return the checkpoints in the folder that `flux_tools.demo.asset.expand` wrote."""
    return Checkpoints(
        folder / "flux-base",
        folder / "flux-redux",
        controlnet=folder / "flux-controlnet-canny",
        loras=folder / "flux-lora",
    )
