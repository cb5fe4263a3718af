"""`flux_vae_encoder`: an image to latents of the requested size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flux_contract.internal_tensors import SOURCE_LATENTS, SOURCE_PIXELS, SOURCE_REFUSAL
from flux_contract.models import FLUX_VAE_ENCODER
from flux_contract.parameters import FIT, IMAGE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.option_values import read_size, read_text
from flux_serving.backend.queued_model import QueuedModelBase
from flux_serving.backend.sampling_options import read_change
from flux_serving.images.picture_decoding import Decode, decode_named
from flux_serving.images.picture_size import Sides
from flux_serving.images.resizing import placement, resized
from flux_serving.network.latent_encoding import encode_pixels
from flux_serving.network.weights import choose_dtype, load_vae_encoder, open_device
from flux_serving.settings import Checkpoints


@dataclass(frozen=True)
class SourceOptions:
    """The source image of an image-to-image request.

    encoded: an image file. height, width: of the result, in pixels. fit: one of the contract's SIZE_FITS.
    is_unchanged: the request returns the image as it is, so its pixels are needed instead of latents.
    """

    encoded: bytes
    height: int
    width: int
    fit: str
    is_unchanged: bool


class _Source(NamedTuple):
    """rgb: (height, width, 3) uint8."""

    rgb: Array
    is_unchanged: bool


class FluxVaeEncoderModel(QueuedModelBase[SourceOptions, _Source]):
    contract = FLUX_VAE_ENCODER
    refusal_tensor = SOURCE_REFUSAL

    def _load(self, instance: Instance) -> None:
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        checkpoints = Checkpoints.from_environment(os.environ)
        self._sides = Sides(*checkpoints.picture_sides())
        self._vae = load_vae_encoder(checkpoints, device, dtype)

    def _parse(self, values: Mapping[str, Array]) -> SourceOptions:
        """The first image is the source."""
        height, width = read_size(values, self._sides)
        is_unchanged = 0 in read_change(values)
        return SourceOptions(values[IMAGE.name][0], height, width, read_text(values, FIT), is_unchanged)

    def _prepare(self, options: SourceOptions, decode: Decode) -> _Source:
        picture = decode_named(decode, IMAGE, 0, options.encoded)
        placed = placement(*picture.size, options.width, options.height, options.fit)
        return _Source(np.asarray(resized(picture, placed)), options.is_unchanged)

    def _outputs(self, prepared: _Source) -> dict[Tensor, Array]:
        latents, pixels = np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)
        if prepared.is_unchanged:
            pixels = prepared.rgb
        else:
            latents = encode_pixels(self._vae, prepared.rgb).numpy()
        return {SOURCE_LATENTS: latents, SOURCE_PIXELS: pixels, SOURCE_REFUSAL: SOURCE_REFUSAL.array("")}
