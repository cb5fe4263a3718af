"""The reference: stock diffusers in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from PIL import Image

from flux_serving.settings import Checkpoints

NO_TEXT = dict.fromkeys(Checkpoints.TEXT_PARTS)


@dataclass(frozen=True)
class Reference:
    """A result of stock diffusers. latents: (tokens, channels). rgb: (height, width, 3) uint8."""

    latents: npt.NDArray[Any]
    rgb: npt.NDArray[Any]


class StockDiffusers:
    """The stock pipelines of the given checkpoints, with and without text encoders."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.prior = FluxPriorReduxPipeline.from_pretrained(checkpoints.redux, dtype=torch.float32, **NO_TEXT)
        self.base = FluxPipeline.from_pretrained(checkpoints.base, dtype=torch.float32, **NO_TEXT)
        self.base_with_text = FluxPipeline.from_pretrained(checkpoints.base, dtype=torch.float32)
        text = {part: getattr(self.base_with_text, part) for part in Checkpoints.TEXT_PARTS}
        self.prior_with_text = FluxPriorReduxPipeline.from_pretrained(checkpoints.redux, dtype=torch.float32, **text)
        for pipeline in (self.base, self.base_with_text):
            pipeline.set_progress_bar_config(disable=True)

    def variation(
        self, image: Image.Image, *, height: int, width: int, steps: int, guidance: float, seed: int, prompt: str = ""
    ) -> Reference:
        """Create a variation: Redux prior pipeline, then base pipeline."""
        prior = self.prior_with_text(image, prompt=prompt) if prompt else self.prior(image)
        return self._run(self.base, prior, height, width, steps, guidance, seed)

    def drawing(self, prompt: str, *, height: int, width: int, steps: int, guidance: float, seed: int) -> Reference:
        """Generate an image from a prompt only."""
        return self._run(self.base_with_text, {"prompt": prompt}, height, width, steps, guidance, seed)

    def _run(
        self,
        pipeline: FluxPipeline,
        condition: Mapping[str, Any],
        height: int,
        width: int,
        steps: int,
        guidance: float,
        seed: int,
    ) -> Reference:
        latents = pipeline(
            **condition,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
        ).images
        return Reference(latents[0].numpy(), self._decode(latents, height, width))

    @torch.no_grad()
    def _decode(self, packed: torch.Tensor, height: int, width: int) -> npt.NDArray[Any]:
        """Decode latents as the pipeline does with `output_type="pil"`."""
        vae = self.base.vae
        latents = self.base._unpack_latents(packed, height, width, self.base.vae_scale_factor)
        decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
        return np.asarray(self.base.image_processor.postprocess(decoded, output_type="pil")[0])
