"""`canny_edges`: a picture to its edges, on CPUs."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import CONTROL_REFUSAL, EDGE_IMAGE, EDGES
from flux_contract.models import CANNY_EDGES
from flux_contract.parameters import CANNY_HIGH, CANNY_LOW, CONTROL_IMAGE, CONTROL_KIND, FIT, OUTPUT_FORMAT
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.pending_request import PendingRequest
from flux_serving.backend.request_queue import RequestQueue
from flux_serving.backend.wire import read_text
from flux_serving.images.edges import edges
from flux_serving.images.picture_decoding import Decode, decode_named
from flux_serving.images.picture_encoding import as_png, parse_format
from flux_serving.images.picture_size import Sides
from flux_serving.images.resizing import placement, resized
from flux_serving.settings import Checkpoints


class CannyEdgesModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        self._instance = Instance.start(CANNY_EDGES, args)
        self._checkpoints = Checkpoints.from_environment(os.environ)
        self._sides = Sides(*self._checkpoints.picture_sides())
        self._queue = RequestQueue(
            CANNY_EDGES, self._instance.settings, CONTROL_REFUSAL, self._read, _answer, max_together=8
        )
        self._instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        self._queue.accept(requests)

    def close(self) -> None:
        self._queue.close()
        self._instance.close()

    def _read(self, values: Mapping[str, Array], decode: Decode) -> dict[Tensor, Array]:
        png = as_png(self._edges(values, decode))
        if parse_format(read_text(CANNY_EDGES, OUTPUT_FORMAT, values)).as_base64:
            png = base64.b64encode(png)
        file = EDGE_IMAGE.array(png)
        return {EDGES: file, EDGE_IMAGE: file, CONTROL_REFUSAL: CONTROL_REFUSAL.array("")}

    def _edges(self, values: Mapping[str, Array], decode: Decode) -> Image.Image:
        """RGB, white on black, at the size asked for."""
        low, high = (float(tensor.value_in(values)) for tensor in (CANNY_LOW, CANNY_HIGH))
        if low > high:
            raise InvalidRequest(f"{CANNY_LOW.name}={low:g}, expected at most {CANNY_HIGH.name}={high:g}")
        height, width = self._sides.asked_in(values)
        picture = decode_named(decode, CONTROL_IMAGE, 0, values[CONTROL_IMAGE.name][0])
        placed = placement(*picture.size, width, height, read_text(CANNY_EDGES, FIT, values))

        def found(photo: Image.Image) -> Image.Image:
            return Image.fromarray(edges(np.asarray(photo), low, high)).convert("RGB")

        is_photo = read_text(CANNY_EDGES, CONTROL_KIND, values) == "photo"
        return resized(picture, placed, around="black", change=found if is_photo else None)


def _answer(batch: Sequence[tuple[PendingRequest, Mapping[Tensor, Array]]]) -> None:
    for pending, outputs in batch:
        pending.answer(outputs)
