"""`image_encode`: encodes pixels as image files, on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import CANVAS, CANVAS_BOX, CANVAS_WEIGHTS, OUTPUT_IMAGE, PIXELS, RECIPE
from flux_contract.models import IMAGE_ENCODE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.option_values import read_format
from flux_serving.backend.request_queue import QueuedModelBase
from flux_serving.images.canvas import Canvas, paste
from flux_serving.images.image_decoding import Decode
from flux_serving.images.image_encoding import OutputFormat, encode_image


@dataclass(frozen=True)
class EncodeOptions:
    """The images to encode. pixels: (images, height, width, 3) uint8. recipes: JSON of each image, or None."""

    pixels: Array
    recipes: Sequence[str | None]
    output_format: OutputFormat
    canvas: Canvas | None


class ImageEncodeModel(QueuedModelBase[EncodeOptions, Sequence[bytes]]):
    contract = IMAGE_ENCODE
    max_together = 8
    decodes = False

    def parse(self, values: Mapping[str, Array]) -> EncodeOptions:
        pixels = values[PIXELS.name]
        recipes: list[str | None] = [None] * len(pixels)
        if RECIPE.name in values:
            recipes = [item.decode(errors="replace") for item in values[RECIPE.name]]
        if len(recipes) != len(pixels):
            raise InvalidRequest(f"{RECIPE.name} has {len(recipes)} values for {len(pixels)} images")
        return EncodeOptions(pixels, recipes, read_format(values), _read_canvas(values))

    def prepare(self, options: EncodeOptions, decode: Decode) -> list[bytes]:
        canvas = options.canvas
        return [
            encode_image(rgb if canvas is None else paste(rgb, canvas), recipe, options.output_format)
            for rgb, recipe in zip(options.pixels, options.recipes, strict=True)
        ]

    def outputs(self, prepared: Sequence[bytes]) -> dict[Tensor, Array]:
        return {OUTPUT_IMAGE: OUTPUT_IMAGE.array(prepared)}


def _read_canvas(values: Mapping[str, Array]) -> Canvas | None:
    """Raises InvalidRequest: a part is missing, or they do not fit together."""
    tensors = (CANVAS, CANVAS_WEIGHTS, CANVAS_BOX)
    missing = [tensor.name for tensor in tensors if tensor.name not in values]
    if len(missing) == len(tensors):
        return None
    if missing:
        raise InvalidRequest(f"{missing[0]} is missing")
    pixels, weights, box = (values[tensor.name] for tensor in tensors)
    if pixels.shape[:2] != weights.shape:
        expected = list(pixels.shape[:2])
        raise InvalidRequest(f"{CANVAS_WEIGHTS.name} has shape {list(weights.shape)}, expected {expected}")
    left, top, right, bottom = map(int, box)
    if not (0 <= left < right <= pixels.shape[1] and 0 <= top < bottom <= pixels.shape[0]):
        raise InvalidRequest(f"{CANVAS_BOX.name}={box.tolist()}, expected a box inside {CANVAS.name}")
    return Canvas(pixels, weights, (left, top, right, bottom))
