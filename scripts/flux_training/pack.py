"""The trained weights as the compact asset that `flux_demo.asset` expands."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from flux_demo.asset import ASSET, CHECKSUM, checksum
from flux_training.progress import averaged_weights
from flux_training.vocabulary import read_tokenizers


def pack(vae_run: Path, text_run: Path, flow_run: Path, guidance_run: Path) -> None:
    """Write the asset and its checksum from the averaged weights of the trainings."""
    weights = {f"vae.{k}": v for k, v in averaged_weights(vae_run).items()}
    weights |= averaged_weights(guidance_run)
    statistics = json.loads((flow_run / "latents.json").read_text())
    ASSET.parent.mkdir(exist_ok=True)
    metadata = {"vae": json.dumps(statistics), "tokenizers": json.dumps(read_tokenizers(text_run))}
    save_file({k: v.half().contiguous() for k, v in weights.items()}, ASSET, metadata=metadata)
    CHECKSUM.write_text(checksum() + "\n")
