"""`flux_vae_encoder`: a picture to latents of the size asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flux_contract.internal_tensors import SOURCE_LATENTS, SOURCE_PIXELS, SOURCE_REFUSAL
from flux_contract.models import FLUX_VAE_ENCODER
from flux_contract.parameters import FIT, IMAGE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.pending_request import PendingRequest
from flux_serving.backend.request_queue import RequestQueue
from flux_serving.backend.wire import read_text
from flux_serving.images.picture_decoding import Decode, decode_named
from flux_serving.images.picture_size import Sides
from flux_serving.images.resizing import placement, resized
from flux_serving.network.latent_encoding import encode_pixels
from flux_serving.network.weights import choose_dtype, load_vae_encoder, open_device
from flux_serving.sampling.sampling_parameters import change_in
from flux_serving.settings import Checkpoints


class _Source(NamedTuple):
    """rgb: (height, width, 3) uint8. is_encoded: whether latents are wanted, and not the pixels."""

    rgb: Array
    is_encoded: bool


class FluxVaeEncoderModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        instance = self._instance = Instance.start(FLUX_VAE_ENCODER, args)
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        checkpoints = Checkpoints.from_environment(os.environ)
        self._sides = Sides(*checkpoints.picture_sides())
        self._vae = load_vae_encoder(checkpoints, device, dtype)
        self._queue = RequestQueue(FLUX_VAE_ENCODER, instance.settings, SOURCE_REFUSAL, self._read, self._finish)
        instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        self._queue.accept(requests)

    def close(self) -> None:
        self._queue.close()
        self._instance.close()

    def _read(self, values: Mapping[str, Array], decode: Decode) -> _Source:
        """The first picture, at the size asked for."""
        height, width = self._sides.asked_in(values)
        picture = decode_named(decode, IMAGE, 0, values[IMAGE.name][0])
        placed = placement(*picture.size, width, height, read_text(FLUX_VAE_ENCODER, FIT, values))
        # What comes back as it is, is not encoded.
        return _Source(np.asarray(resized(picture, placed)), is_encoded=0 not in change_in(values))

    def _finish(self, batch: Sequence[tuple[PendingRequest, _Source]]) -> None:
        for pending, source in batch:
            try:
                pending.answer(self._outputs(source))
            except Exception as error:
                pending.fail(error)

    def _outputs(self, source: _Source) -> dict[Tensor, Array]:
        latents, pixels = np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)
        if source.is_encoded:
            latents = encode_pixels(self._vae, source.rgb).numpy()
        else:
            pixels = source.rgb
        return {SOURCE_LATENTS: latents, SOURCE_PIXELS: pixels, SOURCE_REFUSAL: SOURCE_REFUSAL.array("")}
