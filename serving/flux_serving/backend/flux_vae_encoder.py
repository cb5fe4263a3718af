"""`flux_vae_encoder`: a picture to latents of the size asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flux_serving.backend.instance import Instance
from flux_serving.backend.wire import answer, read_inputs, read_text, refusal
from flux_serving.contract.editing import FIT
from flux_serving.contract.handed import SOURCE_LATENTS, SOURCE_PIXELS, SOURCE_REFUSAL
from flux_serving.contract.knobs import IMAGE
from flux_serving.contract.models import FLUX_VAE_ENCODER
from flux_serving.contract.tensors import Array, Tensor
from flux_serving.settings import Checkpoints
from flux_serving.stages.latent_encoding import encode_pixels
from flux_serving.stages.picture_decoding import decode_named
from flux_serving.stages.picture_size import Sides
from flux_serving.stages.resizing import placement, resized
from flux_serving.stages.sampling_parameters import change_in
from flux_serving.weights import choose_dtype, load_vae_encoder, open_device


class FluxVaeEncoderModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        instance = self._instance = Instance.start(FLUX_VAE_ENCODER, args)
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        checkpoints = Checkpoints.from_environment(os.environ)
        self._sides = Sides(*checkpoints.picture_sides())
        self._vae = load_vae_encoder(checkpoints, device, dtype)
        instance.heart.begin()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        self._instance.close()

    def _answer(self, request: Any) -> Any:
        try:
            values = read_inputs(FLUX_VAE_ENCODER, request)
            rgb = self._read(values)
            # What comes back as it is, is not encoded.
            latents, pixels = np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)
            if 0 in change_in(values):
                pixels = rgb
            else:
                latents = encode_pixels(self._vae, rgb).numpy()
            outputs: dict[Tensor, Array] = {
                SOURCE_LATENTS: latents,
                SOURCE_PIXELS: pixels,
                SOURCE_REFUSAL: SOURCE_REFUSAL.array(""),
            }
            return answer(request.requested_output_names(), outputs)
        except Exception as error:
            return refusal(FLUX_VAE_ENCODER, request, error, SOURCE_REFUSAL)

    def _read(self, values: Mapping[str, Array]) -> Array:
        """The first picture, (height, width, 3) uint8, at the size asked for."""
        height, width = self._sides.asked_in(values)
        picture = decode_named(IMAGE, 0, values[IMAGE.name][0])
        placed = placement(*picture.size, width, height, read_text(FLUX_VAE_ENCODER, FIT, values))
        return np.asarray(resized(picture, placed))
