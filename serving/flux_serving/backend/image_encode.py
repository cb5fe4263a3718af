"""`image_encode`: pixels to encoded pictures, on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import OUTPUT_IMAGE, PIXELS, RECIPE
from flux_contract.models import IMAGE_ENCODE
from flux_contract.parameters import OUTPUT_FORMAT
from flux_contract.tensors import Array
from flux_serving.backend.instance import Instance
from flux_serving.backend.pending_request import PendingRequest
from flux_serving.backend.request_queue import RequestQueue
from flux_serving.backend.wire import read_text
from flux_serving.images.picture_decoding import Decode
from flux_serving.images.picture_encoding import encode_picture, parse_format


class ImageEncodeModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        self._instance = Instance.start(IMAGE_ENCODE, args)
        self._queue = RequestQueue(
            IMAGE_ENCODE, self._instance.settings, None, _encode, _answer, max_together=8, decodes=False
        )
        self._instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        self._queue.accept(requests)

    def close(self) -> None:
        self._queue.close()
        self._instance.close()


def _encode(values: Mapping[str, Array], _: Decode) -> list[bytes]:
    pixels = values[PIXELS.name]
    recipes: list[str | None] = [None] * len(pixels)
    if RECIPE.name in values:
        recipes = [item.decode(errors="replace") for item in values[RECIPE.name]]
    if len(recipes) != len(pixels):
        raise InvalidRequest(f"{RECIPE.name} has {len(recipes)} values for {len(pixels)} pictures")
    output_format = parse_format(read_text(IMAGE_ENCODE, OUTPUT_FORMAT, values))
    return [encode_picture(rgb, recipe, output_format) for rgb, recipe in zip(pixels, recipes, strict=True)]


def _answer(batch: Sequence[tuple[PendingRequest, Sequence[bytes]]]) -> None:
    for pending, encoded in batch:
        pending.answer({OUTPUT_IMAGE: OUTPUT_IMAGE.array(encoded)})
