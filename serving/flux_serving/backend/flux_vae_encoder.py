"""`flux_vae_encoder`: encodes an image as latents of the requested size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flux_contract.internal_tensors import (
    CANVAS,
    CANVAS_BOX,
    CANVAS_WEIGHTS,
    SOURCE_LATENTS,
    SOURCE_MASK,
    SOURCE_PIXELS,
    SOURCE_REFUSAL,
)
from flux_contract.models import FLUX_VAE_ENCODER
from flux_contract.parameters import IMAGE, MASK_IMAGE, PADDING_MASK_CROP, SOURCE_IMAGE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.option_values import read_declared, read_sized_image
from flux_serving.backend.request_queue import QueuedModelBase
from flux_serving.backend.sampling_options import read_change
from flux_serving.images.image_decoding import Decode, decode_named
from flux_serving.images.image_size import Sides
from flux_serving.images.inpainting import InpaintedImage, MaskOptions, mask_of_latents, prepare_inpainting
from flux_serving.images.resizing import SizedImage, resized
from flux_serving.network.latent_encoding import encode_pixels
from flux_serving.network.weights import choose_dtype, load_vae_encoder, open_device
from flux_serving.settings import Checkpoints


class SourceOptions(NamedTuple):
    """The source image of a request that changes it, and the mask, if only a part is changed.

    is_unchanged: the image is returned unchanged, so it is not encoded.
    """

    image: SizedImage
    mask: MaskOptions | None
    is_unchanged: bool


class _Source(NamedTuple):
    """A decoded source image. rgb: (height, width, 3) uint8. inpainted: None without a mask."""

    rgb: Array
    is_unchanged: bool
    inpainted: InpaintedImage | None


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
        image = read_sized_image(values, IMAGE, self._sides)
        return SourceOptions(image, _read_mask(values), is_unchanged=0 in read_change(values))

    def prepare(self, options: SourceOptions, decode: Decode) -> _Source:
        # In the ensemble with a mask, the image is the tensor SOURCE_IMAGE.
        decoded = decode_named(decode, IMAGE if options.mask is None else SOURCE_IMAGE, 0, options.image.encoded)
        if options.mask is None:
            rgb = np.asarray(resized(decoded, options.image.placement(decoded)))
            return _Source(rgb, options.is_unchanged, None)
        inpainted = prepare_inpainting(decoded, options.image, options.mask, decode)
        return _Source(np.asarray(inpainted.image), options.is_unchanged, inpainted)

    def outputs(self, prepared: _Source) -> dict[Tensor, Array]:
        latents, pixels = np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)
        if prepared.is_unchanged:
            pixels = prepared.rgb
        else:
            latents = encode_pixels(self._vae, prepared.rgb).numpy()
        outputs: dict[Tensor, Array] = {
            SOURCE_LATENTS: latents,
            SOURCE_PIXELS: pixels,
            SOURCE_REFUSAL: SOURCE_REFUSAL.array(""),
        }
        return outputs | (self._outputs_of_mask(prepared.inpainted) if prepared.inpainted is not None else {})

    def _outputs_of_mask(self, inpainted: InpaintedImage) -> dict[Tensor, Array]:
        canvas = inpainted.canvas
        return {
            SOURCE_MASK: mask_of_latents(inpainted.mask, self._sides.multiple // 2),
            CANVAS: canvas.pixels,
            CANVAS_WEIGHTS: canvas.weights,
            CANVAS_BOX: np.array(canvas.box, np.int32),
        }


def _read_mask(values: Mapping[str, Array]) -> MaskOptions | None:
    if MASK_IMAGE.name not in values:
        return None
    crop_padding = int(values[PADDING_MASK_CROP.name][0]) if PADDING_MASK_CROP.name in values else None
    return MaskOptions(values[MASK_IMAGE.name][0], crop_padding, **read_declared(values, MaskOptions))
