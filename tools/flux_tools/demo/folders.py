"""Where the demo checkpoint lies. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from flux_serving.settings import Checkpoints


def demo_checkpoints(folder: Path) -> Checkpoints:
    """folder: the one that `flux_tools.demo.asset.expand` wrote."""
    return Checkpoints(
        folder / "flux-base",
        folder / "flux-redux",
        controlnet=folder / "flux-controlnet-canny",
        loras=folder / "flux-lora",
    )
