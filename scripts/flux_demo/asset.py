"""The compact asset in the repository, and its expansion into checkpoints that stock diffusers loads.

The asset holds the trained weights as float16 at the compact widths. Expanding pads them with zeros to the widths that
the FLUX pipelines hard-code, and adds the configurations; the same asset always gives the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxPriorReduxPipeline
from safetensors.torch import load_file, safe_open
from torch import Tensor, nn
from transformers import SiglipImageProcessor

from flux_demo.architecture import (
    SCHEDULER,
    STOCK_CONTEXT_WIDTH,
    new_image_embedder,
    new_image_encoder,
    new_transformer,
    new_vae,
)
from flux_demo.text import at_width, clip_tokenizer, new_clip, new_t5, t5_tokenizer

ASSET = Path(__file__).parent / "asset" / "demo.safetensors"
CHECKSUM = ASSET.with_suffix(".sha256")


def expand(folder: Path) -> None:
    """Write `flux-base` and `flux-redux` into the folder, unless they are there and come from this very asset.

    Raises ValueError: the asset is not the one that was committed.
    """
    own = checksum()
    if own != CHECKSUM.read_text().strip():
        raise ValueError(f"{ASSET} is damaged: its checksum differs from {CHECKSUM.name}")
    mark = folder / "expanded-from.sha256"
    if mark.exists() and mark.read_text() == own:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="expanding-", dir=folder.parent))
    base, redux = _pipelines()
    base.save_pretrained(unfinished / "flux-base")
    redux.save_pretrained(unfinished / "flux-redux")
    # transformers names the class by what is installed here; the stock name loads everywhere.
    index = unfinished / "flux-redux" / "model_index.json"
    index.write_text(index.read_text().replace("SiglipImageProcessorPil", "SiglipImageProcessor"))
    (unfinished / mark.name).write_text(own)
    shutil.rmtree(folder, ignore_errors=True)
    os.chmod(unfinished, 0o755)
    unfinished.rename(folder)


def _pipelines() -> tuple[FluxPipeline, FluxPriorReduxPipeline]:
    weights = {name: value.float() for name, value in load_file(ASSET).items()}
    with safe_open(ASSET, "pt") as file:
        statistics, tokenizers = (json.loads(file.metadata()[name]) for name in ("vae", "tokenizers"))
    clip_tokens, t5_tokens = clip_tokenizer(tokenizers), t5_tokenizer(tokenizers)
    vae = new_vae()
    vae.register_to_config(**statistics)
    transformer = new_transformer(STOCK_CONTEXT_WIDTH)
    text_encoder, text_encoder_2 = new_clip(len(clip_tokens)), new_t5(len(t5_tokens), STOCK_CONTEXT_WIDTH)
    image_encoder, image_embedder = new_image_encoder(), new_image_embedder(STOCK_CONTEXT_WIDTH)
    modules = {
        "vae": vae,
        "transformer": transformer,
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
        "image_encoder": image_encoder,
        "image_embedder": image_embedder,
    }
    for name, module in modules.items():
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        _load_padded(module, at_width(own, STOCK_CONTEXT_WIDTH) if module is text_encoder_2 else own)
    base = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokens,
        text_encoder_2=text_encoder_2,
        tokenizer_2=t5_tokens,
        transformer=transformer,
    )
    processor = SiglipImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    )
    return base, FluxPriorReduxPipeline(
        image_encoder=image_encoder, feature_extractor=processor, image_embedder=image_embedder
    )


def _load_padded(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights whose sizes may be smaller than the module's; zeros fill the rest."""
    padded = {}
    for name, target in module.state_dict().items():
        padded[name] = torch.zeros_like(target)
        padded[name][tuple(slice(0, size) for size in weights[name].shape)] = weights[name]
    module.load_state_dict(padded)


def checksum() -> str:
    return hashlib.sha256(ASSET.read_bytes()).hexdigest()
