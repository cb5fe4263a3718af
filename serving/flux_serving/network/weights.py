"""Loads checkpoints from local folders onto one device in one dtype. Nothing is downloaded from a hub."""

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
    """The parts of a `FluxPipeline` that denoising and decoding need.

    Cache: device and dtype, because diffusers goes through all parameters at each access: 0.4 ms for the demo
    checkpoint.
    """

    #: The checkpoint folder's name, which is written into an image's recipe.
    name: str
    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    image_processor: VaeImageProcessor
    #: Configuration of the FlowMatchEulerDiscreteScheduler. Every request creates its own scheduler from it.
    scheduler_config: dict[str, Any]
    #: Side of one latent in pixels.
    vae_scale_factor: int
    #: Side of the checkpoint's default image size in pixels.
    native_side: int
    #: Number of denoising steps that the checkpoint is trained for.
    default_steps: int
    #: A FLUX ControlNet; None if the server has none.
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
        """Side of one image token in pixels. The sides of images are multiples of it."""
        return 2 * self.vae_scale_factor


def open_device(name: str) -> torch.device:
    """Returns the device, and makes a GPU the calling thread's current device, because Triton does not.

    name: `cpu`, or a GPU such as `cuda:7`. Raises CannotStart: torch does not find the GPU.
    """
    device = torch.device(name)
    if device.type == "cuda":
        _check_gpu(device.index)
        torch.cuda.set_device(device)
    return device


def _check_gpu(gpu: int) -> None:
    count = torch.cuda.device_count()
    if gpu < count:
        return
    found = f"{count} GPU{'s' * (count > 1)}, numbered from 0" if count else "no GPU"
    raise CannotStart(
        f"GPU {gpu} not found: torch finds {found}; choose other GPUs with --gpus of scripts/serve or FLUX_REDUX_GPUS "
        "of scripts/start.sh, or run on the CPU with --profile cpu"
    )


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_base(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> BaseWeights:
    """Load the base checkpoint without text encoders.

    Raises CannotStart: a folder is incomplete, the scheduler draws random numbers at every step, or the VAE or the
    ControlNet does not fit the transformer.
    """
    _check_complete(checkpoints)
    parts: dict[str, Any] = dict.fromkeys(Checkpoints.TEXT_PARTS)
    parts["vae"] = AutoencoderKL.from_pretrained(checkpoints.vae_folder, dtype=dtype, local_files_only=True)
    pipeline = FluxPipeline.from_pretrained(checkpoints.base, dtype=dtype, local_files_only=True, **parts).to(device)
    transformer, vae = pipeline.transformer, pipeline.vae
    if pipeline.scheduler.config.get("stochastic_sampling"):
        folder = shown(checkpoints.base.resolve())
        raise CannotStart(f"{folder}: stochastic_sampling is unsupported: a seed would not reproduce its images")
    if 4 * vae.config.latent_channels != transformer.config.in_channels:
        raise CannotStart(
            f"{checkpoints.vae_folder}: the VAE has {vae.config.latent_channels} latent channels, the transformer "
            f"expects {transformer.config.in_channels // 4}"
        )
    return BaseWeights(
        name=shown(checkpoints.base.resolve().name),
        transformer=_frozen(transformer),
        # In this memory layout, convolutions need no copies, which makes them 1.4 times as fast on a CPU at 512 x 512.
        vae=_frozen(vae).to(memory_format=torch.channels_last),
        image_processor=pipeline.image_processor,
        scheduler_config=dict(pipeline.scheduler.config),
        vae_scale_factor=pipeline.vae_scale_factor,
        native_side=vae.config.sample_size,
        default_steps=_default_steps(transformer, pipeline.scheduler.config),
        controlnet=checkpoints.controlnet and _load_controlnet(checkpoints.controlnet, transformer, device, dtype),
    )


def load_vae_encoder(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """Load the VAE without its decoder. Raises CannotStart: the folder is incomplete."""
    _check_complete(checkpoints)
    vae = AutoencoderKL.from_pretrained(checkpoints.vae_folder, dtype=dtype, local_files_only=True)
    del vae.decoder
    # Keeps the default memory layout, unlike the decoder: rounding differences of the encoder matter more than its
    # time, because the denoising steps magnify them a hundredfold.
    return _frozen(vae.to(device))


def _load_controlnet(
    folder: Path, transformer: FluxTransformer2DModel, device: torch.device, dtype: torch.dtype
) -> FluxControlNetModel:
    """Raises CannotStart: the ControlNet is of an unsupported kind or does not fit the transformer."""
    with warnings.catch_warnings():
        # diffusers 0.42 warns about its own import of a class.
        warnings.simplefilter("ignore", FutureWarning)
        network = FluxControlNetModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if network.union or network.input_hint_block is not None:
        raise CannotStart(f"{folder}: union ControlNets and ControlNets with hint blocks are unsupported")
    for name in ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim"):
        own, wanted = network.config[name], transformer.config[name]
        if own != wanted:
            raise CannotStart(f"{folder}: {name} is {own}, expected {wanted}, the transformer's value")
    return _frozen(network.to(device))


def _default_steps(transformer: FluxTransformer2DModel, scheduler_config: Mapping[str, Any]) -> int:
    """Returns the checkpoint's default number of steps.

    FLUX.1-schnell, which is trained for few steps, has no guidance embedding and no size-dependent noise shift.
    """
    is_few = not transformer.config.guidance_embeds and not scheduler_config.get("use_dynamic_shifting")
    return limits.DEFAULT_FEW_STEPS if is_few else limits.DEFAULT_STEPS


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)


def load_prior(checkpoints: Checkpoints, device: torch.device, dtype: torch.dtype) -> FluxPriorReduxPipeline:
    """Load the Redux pipeline, with the base checkpoint's text encoders if it has them.

    Raises CannotStart: a folder is incomplete.
    """
    _check_complete(checkpoints)
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


def _check_complete(checkpoints: Checkpoints) -> None:
    if missing := checkpoints.missing():
        raise CannotStart("; ".join(missing))
