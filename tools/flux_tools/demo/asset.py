"""The compact assets in the repository, and their expansion into checkpoints that stock diffusers loads.

The assets contain the trained weights as float16 at the compact widths. Expanding pads them with zeros to the widths
that the FLUX pipelines hard-code, and adds the configurations. The same assets always expand to the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxPipeline, FluxPriorReduxPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import SiglipImageProcessor

from flux_tools.demo.architecture import (
    SCHEDULER,
    STOCK_CONTEXT_WIDTH,
    new_controlnet,
    new_image_embedder,
    new_image_encoder,
    new_transformer,
    new_vae,
)
from flux_tools.demo.text import at_width, clip_tokenizer, new_clip, new_t5, t5_tokenizer

#: In this order: the pipelines, the ControlNet for Canny edges, and the LoRA adapter for black and white.
ASSETS = DEMO, CONTROLNET, GREYSCALE = [
    Path(__file__).parent / "asset" / f"{name}.safetensors" for name in ("demo", "controlnet", "greyscale")
]


def expand(folder: Path) -> None:
    """Write the checkpoints to the folder, unless it already contains the checkpoints of these assets.

    They are `flux-base`, `flux-redux`, `flux-controlnet-canny` and `flux-lora/greyscale.safetensors`.
    Raises ValueError: an asset differs from its committed checksum.
    """
    for asset in ASSETS:
        if checksum(asset) != committed_checksum(asset).read_text().strip():
            raise ValueError(f"{asset} is damaged: its checksum differs from {committed_checksum(asset).name}")
    own = "\n".join(checksum(asset) for asset in ASSETS)
    mark = folder / "expanded-from.sha256"
    if mark.exists() and mark.read_text() == own:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="expanding-", dir=folder.parent))
    base, redux = _pipelines()
    base.save_pretrained(unfinished / "flux-base")
    redux.save_pretrained(unfinished / "flux-redux")
    _controlnet().save_pretrained(unfinished / "flux-controlnet-canny")
    (unfinished / "flux-lora").mkdir()
    shutil.copy(GREYSCALE, unfinished / "flux-lora")
    # The name that transformers saves depends on the installed packages; the stock name loads everywhere.
    index = unfinished / "flux-redux" / "model_index.json"
    index.write_text(index.read_text().replace("SiglipImageProcessorPil", "SiglipImageProcessor"))
    (unfinished / mark.name).write_text(own)
    shutil.rmtree(folder, ignore_errors=True)
    os.chmod(unfinished, 0o755)
    unfinished.rename(folder)


def _pipelines() -> tuple[FluxPipeline, FluxPriorReduxPipeline]:
    weights = {name: value.float() for name, value in load_file(DEMO).items()}
    with safe_open(DEMO, "pt") as file:
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


def _controlnet() -> FluxControlNetModel:
    controlnet = new_controlnet(STOCK_CONTEXT_WIDTH)
    _load_padded(controlnet, load_file(CONTROLNET))
    return controlnet


def _load_padded(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that may be smaller than the module's, padded with zeros."""
    padded = {}
    for name, target in module.state_dict().items():
        padded[name] = torch.zeros_like(target)
        padded[name][tuple(slice(0, size) for size in weights[name].shape)] = weights[name]
    module.load_state_dict(padded)


def checksum(asset: Path) -> str:
    return hashlib.sha256(asset.read_bytes()).hexdigest()


def committed_checksum(asset: Path) -> Path:
    """Return the path of the file with the asset's expected checksum."""
    return asset.with_suffix(".sha256")
