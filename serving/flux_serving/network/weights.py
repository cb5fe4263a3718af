"""Loading checkpoints into memory, on one device, in one dtype. Files only; nothing is fetched from a hub."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FluxControlNetModel,
    FluxPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from flux_contract import limits
from flux_contract.environment import shown
from flux_contract.errors import CannotStart
from flux_serving.settings import Checkpoints


@dataclass(frozen=True)
class BaseWeights:
    """What denoising and decoding need of a `FluxPipeline`.

    Cache: device and dtype, because diffusers looks through all parameters each time: 0.4 ms for the demo's.
    """

    #: The checkpoint folder's name, as it stands in an image's recipe.
    name: str
    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    image_processor: VaeImageProcessor
    #: Configuration of the FlowMatchEulerDiscreteScheduler; every job makes its own scheduler from it.
    scheduler_config: dict[str, Any]
    #: Pixels of one latent's side.
    vae_scale_factor: int
    #: Pixels of one side of the checkpoint's own image size.
    native_side: int
    #: Denoising steps that the checkpoint is made for.
    default_steps: int
    #: A FLUX ControlNet; None where the server has none.
    controlnet: FluxControlNetModel | None = None

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
        """Pixels of one image token's side: a side of an image is a multiple of it."""
        return 2 * self.vae_scale_factor


def open_device(name: str) -> torch.device:
    """name: `cpu`, or a GPU such as `cuda:7`, which becomes the calling thread's current one; Triton selects none.

    Raises CannotStart: torch sees no such GPU.
    """
    device = torch.device(name)
    if device.type == "cuda":
        _refuse_missing(device.index)
        torch.cuda.set_device(device)
    return device


def _refuse_missing(gpu: int) -> None:
    count = torch.cuda.device_count()
    if gpu < count:
        return
    found = f"{count} GPU{'s' * (count > 1)}, numbered from 0" if count else "no GPU"
    raise CannotStart(
        f"GPU {gpu} is missing: torch sees {found}; choose others by --gpus of scripts/serve or FLUX_REDUX_GPUS of "
        "scripts/start.sh, or none by --profile cpu"
    )


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_base(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> BaseWeights:
    """Raises CannotStart: a folder is incomplete, its scheduler draws random numbers at every step, or the VAE or the
    ControlNet is not for this transformer.
    """
    _refuse_incomplete(checkpoints)
    parts: dict[str, Any] = dict.fromkeys(Checkpoints.TEXT_PARTS)
    parts["vae"] = AutoencoderKL.from_pretrained(checkpoints.vae_folder, dtype=dtype, local_files_only=True)
    pipeline = FluxPipeline.from_pretrained(checkpoints.base, dtype=dtype, local_files_only=True, **parts).to(device)
    transformer, vae = pipeline.transformer, pipeline.vae
    if pipeline.scheduler.config.get("stochastic_sampling"):
        folder = shown(checkpoints.base.resolve())
        raise CannotStart(f"{folder}: stochastic_sampling is not supported, a seed could not repeat it")
    if 4 * vae.config.latent_channels != transformer.config.in_channels:
        raise CannotStart(f"{checkpoints.vae_folder}: {vae.config.latent_channels} channels do not fit the transformer")
    return BaseWeights(
        name=shown(checkpoints.base.resolve().name),
        transformer=_frozen(transformer),
        # The order of memory in which convolutions need no copies: 1.4 times as fast on a CPU at 512 x 512.
        vae=_frozen(vae).to(memory_format=torch.channels_last),
        image_processor=pipeline.image_processor,
        scheduler_config=dict(pipeline.scheduler.config),
        vae_scale_factor=pipeline.vae_scale_factor,
        native_side=vae.config.sample_size,
        default_steps=_default_steps(transformer, pipeline.scheduler.config),
        controlnet=checkpoints.controlnet and _load_controlnet(checkpoints.controlnet, transformer, device, dtype),
    )


def load_vae_encoder(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """The VAE without its decoder. Raises CannotStart: the folder is incomplete."""
    _refuse_incomplete(checkpoints)
    vae = AutoencoderKL.from_pretrained(checkpoints.vae_folder, dtype=dtype, local_files_only=True)
    del vae.decoder
    # Not in another order of memory, as the decoder is: an encoder's last digits are worth more than its time, because
    # the steps that follow make a hundred times as much of them.
    return _frozen(vae.to(device))


def _load_controlnet(
    folder: Path, transformer: FluxTransformer2DModel, device: torch.device, dtype: torch.dtype
) -> FluxControlNetModel:
    """Raises CannotStart: it is of a kind that is not supported, or not for this transformer."""
    with warnings.catch_warnings():
        # diffusers 0.42 warns of where it itself imports a class from.
        warnings.simplefilter("ignore", FutureWarning)
        network = FluxControlNetModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if network.union or network.input_hint_block is not None:
        raise CannotStart(f"{folder}: union ControlNets and those with hint blocks are not supported")
    for name in ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim"):
        own, wanted = network.config[name], transformer.config[name]
        if own != wanted:
            raise CannotStart(f"{folder}: {name} is {own}, expected {wanted}, as the transformer's")
    return _frozen(network.to(device))


def _default_steps(transformer: FluxTransformer2DModel, scheduler_config: Mapping[str, Any]) -> int:
    """FLUX.1-schnell, made for few steps, has no guidance embedding and does not shift its noise by the size."""
    is_few = not transformer.config.guidance_embeds and not scheduler_config.get("use_dynamic_shifting")
    return limits.DEFAULT_FEW_STEPS if is_few else limits.DEFAULT_STEPS


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)


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
            _frozen(module)
    return pipeline


def _refuse_incomplete(checkpoints: Checkpoints) -> None:
    if missing := checkpoints.missing():
        raise CannotStart("; ".join(missing))
