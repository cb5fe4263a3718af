"""`canny_edges`: draws the edges of an image, on CPUs."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import NamedTuple

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import CONTROL_REFUSAL, EDGE_IMAGE, EDGES
from flux_contract.models import CANNY_EDGES
from flux_contract.parameters import CANNY_HIGH, CANNY_LOW, CONTROL_IMAGE, CONTROL_KIND
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.option_values import read_declared, read_format, read_sized_image, read_text
from flux_serving.backend.request_queue import QueuedModelBase
from flux_serving.images.edges import EdgeOptions, draw_edges
from flux_serving.images.image_decoding import Decode
from flux_serving.images.image_encoding import as_png
from flux_serving.images.image_size import Sides
from flux_serving.settings import Checkpoints


class CannyOptions(NamedTuple):
    """The options of a request. as_base64: return the edges as base64 text."""

    edges: EdgeOptions
    as_base64: bool


class CannyEdgesModel(QueuedModelBase[CannyOptions, bytes]):
    contract = CANNY_EDGES
    refusal_tensor = CONTROL_REFUSAL
    max_together = 8

    def load(self, instance: Instance) -> None:
        self._sides = Sides(*Checkpoints.from_environment(os.environ).image_sides())

    def parse(self, values: Mapping[str, Array]) -> CannyOptions:
        declared = read_declared(values, EdgeOptions)
        low, high = declared["low"], declared["high"]
        if low > high:
            raise InvalidRequest(f"{CANNY_LOW.name}={low:g}, expected at most {CANNY_HIGH.name}={high:g}")
        image = read_sized_image(values, CONTROL_IMAGE, self._sides)
        edges = EdgeOptions(image, is_photo=read_text(values, CONTROL_KIND) == "photo", **declared)
        return CannyOptions(edges, read_format(values).as_base64)

    def prepare(self, options: CannyOptions, decode: Decode) -> bytes:
        png = as_png(draw_edges(options.edges, decode))
        return base64.b64encode(png) if options.as_base64 else png

    def outputs(self, prepared: bytes) -> dict[Tensor, Array]:
        file = EDGE_IMAGE.array(prepared)
        return {EDGES: file, EDGE_IMAGE: file, CONTROL_REFUSAL: CONTROL_REFUSAL.array("")}
