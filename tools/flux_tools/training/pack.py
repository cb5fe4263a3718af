"""Packs the trained weights into the compact assets that `flux_tools.demo.asset` expands."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from flux_tools.demo.asset import CONTROLNET, DEMO, GREYSCALE, checksum, committed_checksum
from flux_tools.training.lora import adapter_weights
from flux_tools.training.progress import averaged_weights
from flux_tools.training.vocabulary import read_tokenizers


def pack(runs: Path) -> None:
    """Write the assets and their checksums from the averaged weights in the folder of the runs."""
    weights = {f"vae.{k}": v for k, v in averaged_weights(runs / "vae").items()}
    weights |= averaged_weights(runs / "guidance")
    statistics = json.loads((runs / "flow" / "latents.json").read_text())
    tokenizers = read_tokenizers(runs / "text")
    _write(DEMO, weights, {"vae": json.dumps(statistics), "tokenizers": json.dumps(tokenizers)})
    control = averaged_weights(runs / "control")
    _write(CONTROLNET, {k.removeprefix("controlnet."): v for k, v in control.items()}, {"format": "pt"})
    _write(GREYSCALE, adapter_weights(runs / "lora"), {"format": "pt"})


def _write(asset: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    asset.parent.mkdir(exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in weights.items()}, asset, metadata=metadata)
    committed_checksum(asset).write_text(checksum(asset) + "\n")
