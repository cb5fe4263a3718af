"""`flux_vae_encoder`: encodes an image as latents of the requested size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flux_contract.internal_tensors import SOURCE_LATENTS, SOURCE_PIXELS, SOURCE_REFUSAL
from flux_contract.models import FLUX_VAE_ENCODER
from flux_contract.parameters import IMAGE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.option_values import read_sized_image
from flux_serving.backend.request_queue import QueuedModelBase
from flux_serving.backend.sampling_options import read_change
from flux_serving.images.image_decoding import Decode, decode_named
from flux_serving.images.image_size import Sides
from flux_serving.images.resizing import SizedImage, resized
from flux_serving.network.latent_encoding import encode_pixels
from flux_serving.network.weights import choose_dtype, load_vae_encoder, open_device
from flux_serving.settings import Checkpoints


class SourceOptions(NamedTuple):
    """The source image of an image-to-image request. is_unchanged: it is returned unchanged, so it is not encoded."""

    image: SizedImage
    is_unchanged: bool


class _Source(NamedTuple):
    """A decoded source image. rgb: (height, width, 3) uint8."""

    rgb: Array
    is_unchanged: bool


class FluxVaeEncoderModel(QueuedModelBase[SourceOptions, _Source]):
    contract = FLUX_VAE_ENCODER
    refusal_tensor = SOURCE_REFUSAL

    def load(self, instance: Instance) -> None:
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        checkpoints = Checkpoints.from_environment(os.environ)
        self._sides = Sides(*checkpoints.image_sides())
        self._vae = load_vae_encoder(checkpoints, device, dtype)

    def parse(self, values: Mapping[str, Array]) -> SourceOptions:
        return SourceOptions(read_sized_image(values, IMAGE, self._sides), is_unchanged=0 in read_change(values))

    def prepare(self, options: SourceOptions, decode: Decode) -> _Source:
        decoded = decode_named(decode, IMAGE, 0, options.image.encoded)
        return _Source(np.asarray(resized(decoded, options.image.placement(decoded))), options.is_unchanged)

    def outputs(self, prepared: _Source) -> dict[Tensor, Array]:
        latents, pixels = np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)
        if prepared.is_unchanged:
            pixels = prepared.rgb
        else:
            latents = encode_pixels(self._vae, prepared.rgb).numpy()
        return {SOURCE_LATENTS: latents, SOURCE_PIXELS: pixels, SOURCE_REFUSAL: SOURCE_REFUSAL.array("")}
