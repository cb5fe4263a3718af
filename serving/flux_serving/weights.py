"""Loading checkpoints into memory, on one device, in one dtype. Files only; nothing is fetched from a hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxPriorReduxPipeline, FluxTransformer2DModel
from diffusers.image_processor import VaeImageProcessor
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from flux_serving.errors import CannotStart
from flux_serving.settings import Checkpoints


@dataclass(frozen=True)
class BaseWeights:
    """What denoising and decoding need of a `FluxPipeline`."""

    #: The checkpoint folder's name, as it stands in a picture's recipe.
    name: str
    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    image_processor: VaeImageProcessor
    #: Configuration of the FlowMatchEulerDiscreteScheduler; every job makes its own scheduler from it.
    scheduler_config: dict[str, Any]
    #: Pixels of one latent's side.
    vae_scale_factor: int
    #: Pixels of one side of the checkpoint's own picture size.
    native_side: int

    # Kept, because diffusers looks through all parameters each time: 0.4 ms for the demo's.
    @cached_property
    def device(self) -> torch.device:
        device: torch.device = self.transformer.device
        return device

    @cached_property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    @property
    def token_side(self) -> int:
        """Pixels of one image token's side: a side of a picture is a multiple of it."""
        return 2 * self.vae_scale_factor


def open_device(name: str) -> torch.device:
    """name: `cpu`, or a GPU such as `cuda:7`, which becomes the calling thread's current one; Triton selects none."""
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_base(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> BaseWeights:
    """Raises CannotStart: the folder is incomplete, or its scheduler draws random numbers at every step."""
    _refuse_incomplete(checkpoints)
    without_text = dict.fromkeys(Checkpoints.TEXT_PARTS)
    pipeline = FluxPipeline.from_pretrained(checkpoints.base, dtype=dtype, local_files_only=True, **without_text).to(
        device
    )
    if pipeline.scheduler.config.get("stochastic_sampling"):
        raise CannotStart(f"{checkpoints.base}: stochastic_sampling is not supported, a seed could not repeat it")
    return BaseWeights(
        name=checkpoints.base.resolve().name,
        transformer=pipeline.transformer.eval().requires_grad_(False),
        # The order of memory in which convolutions need no copies: 1.4 times as fast on a CPU at 512 x 512.
        vae=pipeline.vae.eval().requires_grad_(False).to(memory_format=torch.channels_last),
        image_processor=pipeline.image_processor,
        scheduler_config=dict(pipeline.scheduler.config),
        vae_scale_factor=pipeline.vae_scale_factor,
        native_side=pipeline.vae.config.sample_size,
    )


def load_prior(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> FluxPriorReduxPipeline:
    """The Redux pipeline, with the base checkpoint's text encoders where it has them.

    Raises CannotStart: a folder is incomplete.
    """
    _refuse_incomplete(checkpoints)
    parts: dict[str, Any] = dict.fromkeys(Checkpoints.TEXT_PARTS)
    if checkpoints.has_text_encoders():
        base = checkpoints.base
        parts = {
            "text_encoder": CLIPTextModel.from_pretrained(base / "text_encoder", dtype=dtype),
            "text_encoder_2": T5EncoderModel.from_pretrained(base / "text_encoder_2", dtype=dtype),
            "tokenizer": AutoTokenizer.from_pretrained(base / "tokenizer"),
            "tokenizer_2": AutoTokenizer.from_pretrained(base / "tokenizer_2"),
        }
    pipeline = FluxPriorReduxPipeline.from_pretrained(
        checkpoints.redux, dtype=dtype, local_files_only=True, **parts
    ).to(device)
    for module in (pipeline.image_encoder, pipeline.image_embedder, pipeline.text_encoder, pipeline.text_encoder_2):
        if module is not None:
            module.eval().requires_grad_(False)
    return pipeline


def _refuse_incomplete(checkpoints: Checkpoints) -> None:
    if missing := checkpoints.missing():
        raise CannotStart("; ".join(missing))
