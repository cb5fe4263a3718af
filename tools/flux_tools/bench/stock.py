"""Stock diffusers: the pipelines that the alternatives serve and that all results are compared with."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
)
from PIL import Image

from flux_contract.limits import DEFAULT_CANNY_HIGH, DEFAULT_CANNY_LOW
from flux_serving.images.edges import edges
from flux_serving.settings import Checkpoints
from flux_tools.bench.images import center_mask
from flux_tools.bench.plan import GUIDANCE, STRENGTH, ImageOptions, WorkloadKind

_NO_TEXT = dict.fromkeys(Checkpoints.TEXT_PARTS)
_T = TypeVar("_T")


class StockDiffusers:
    """The stock pipelines of each mode, in float32 on the CPU, with shared weights. Not thread-safe."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.prior = FluxPriorReduxPipeline.from_pretrained(checkpoints.redux, dtype=torch.float32, **_NO_TEXT)
        base = FluxPipeline.from_pretrained(checkpoints.base, dtype=torch.float32)
        controlnet = FluxControlNetModel.from_pretrained(checkpoints.controlnet, dtype=torch.float32)
        _encode_to_the_mode(base.vae)
        self.pipelines = {
            "redux": base,
            "img2img": FluxImg2ImgPipeline.from_pipe(base),
            "inpaint": FluxInpaintPipeline.from_pipe(base),
            "text2img": base,
            "canny": FluxControlNetPipeline.from_pipe(base, controlnet=controlnet),
        }
        for pipeline in self.pipelines.values():
            pipeline.set_progress_bar_config(disable=True)

    def draw(self, image: Image.Image, job: ImageOptions) -> Image.Image:
        return self.draw_all([image], [job])[0]

    def draw_all(self, images: Sequence[Image.Image], jobs: Sequence[ImageOptions]) -> list[Image.Image]:
        """Generate a batch of jobs of one kind. Each row starts from the noise of its own seed."""
        side, steps, mode = jobs[0].kind
        generated: list[Image.Image] = self.pipelines[mode](
            **self._condition(mode, list(images), [job.prompt for job in jobs], side),
            height=side,
            width=side,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        ).images
        if mode == "inpaint":
            # The pipeline changes pixels outside the mask too, by decoding them.
            return [_pasted(each, source, side) for each, source in zip(generated, images, strict=True)]
        return generated

    def _condition(self, mode: str, images: list[Image.Image], prompts: list[str], side: int) -> Mapping[str, Any]:
        if mode == "redux":
            # A single image as in diffusers' documentation: `base(**prior(image))`.
            prior: Mapping[str, Any] = self.prior(images[0]) if len(images) == 1 else self._priors(images)
            return prior
        if mode == "img2img":
            return {"prompt": prompts, "image": images, "strength": STRENGTH}
        if mode == "inpaint":
            return {
                "prompt": prompts,
                "image": images,
                "mask_image": [center_mask(image) for image in images],
                "strength": STRENGTH,
            }
        if mode == "canny":
            return {"prompt": prompts, "control_image": [edge_map(image, side) for image in images]}
        return {"prompt": prompts}

    @torch.no_grad()
    def _priors(self, images: list[Image.Image]) -> Mapping[str, Any]:
        """Return the conditioning of a batch.

        The prior's `__call__` would add up the images, so this method calls its components.
        """
        hidden = self.prior.encode_image(images, torch.device("cpu"), 1)
        tokens = self.prior.image_embedder(hidden).image_embeds
        rows, _, width = tokens.shape
        text = tokens.new_zeros(rows, 512, width)
        return {
            "prompt_embeds": torch.cat([text, tokens], dim=1),
            "pooled_prompt_embeds": tokens.new_zeros(rows, 768),
        }


def _encode_to_the_mode(vae: AutoencoderKL) -> None:
    """Make the VAE's encoder return the mode of its distribution, as flux-triton does, without using the generator.

    The pipelines accept an encoder that returns `latents` instead of a distribution.
    """
    encode = vae.encode
    vae.encode = lambda pixels: SimpleNamespace(latents=encode(pixels).latent_dist.mode())


def _pasted(generated: Image.Image, source: Image.Image, side: int) -> Image.Image:
    size = (side, side)
    mask = center_mask(source).resize(size, Image.Resampling.LANCZOS).point([0] * 128 + [255] * 128)
    return Image.composite(generated, source.resize(size, Image.Resampling.LANCZOS), mask)


def edge_map(image: Image.Image, side: int) -> Image.Image:
    """Return white edges on black at the requested size, with the default Canny thresholds."""
    photo = image.resize((side, side), Image.Resampling.LANCZOS)
    return Image.fromarray(edges(np.asarray(photo), DEFAULT_CANNY_LOW, DEFAULT_CANNY_HIGH)).convert("RGB")


def by_kind(orders: Iterable[tuple[_T, ImageOptions]]) -> list[list[tuple[_T, ImageOptions]]]:
    """Group the orders that can share a pipeline call, in the order of arrival within each group."""
    groups: dict[WorkloadKind, list[tuple[_T, ImageOptions]]] = {}
    for order in orders:
        groups.setdefault(order[1].kind, []).append(order)
    return list(groups.values())


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
