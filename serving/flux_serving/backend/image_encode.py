"""`image_encode`: pixels to encoded pictures, on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flux_serving.backend.instance import Instance
from flux_serving.backend.wire import answer, error_response, read_inputs, read_text
from flux_serving.contract.handed import OUTPUT_IMAGE, PIXELS, RECIPE
from flux_serving.contract.knobs import OUTPUT_FORMAT
from flux_serving.contract.models import IMAGE_ENCODE
from flux_serving.errors import InvalidRequest
from flux_serving.stages.picture_encoding import encode_picture, parse_format


class ImageEncodeModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        self._instance = Instance.start(IMAGE_ENCODE, args)
        self._instance.heart.begin()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        self._instance.close()

    def _answer(self, request: Any) -> Any:
        try:
            values = read_inputs(IMAGE_ENCODE, request)
            pixels = values[PIXELS.name]
            recipes: list[str | None] = [None] * len(pixels)
            if RECIPE.name in values:
                recipes = [item.decode(errors="replace") for item in values[RECIPE.name]]
            if len(recipes) != len(pixels):
                raise InvalidRequest(f"{RECIPE.name} has {len(recipes)} values for {len(pixels)} pictures")
            output_format = parse_format(read_text(IMAGE_ENCODE, OUTPUT_FORMAT, values))
            encoded = [encode_picture(rgb, recipe, output_format) for rgb, recipe in zip(pixels, recipes, strict=True)]
            return answer(request.requested_output_names(), {OUTPUT_IMAGE: OUTPUT_IMAGE.array(encoded)})
        except Exception as error:
            return error_response(IMAGE_ENCODE, request.request_id(), error)
