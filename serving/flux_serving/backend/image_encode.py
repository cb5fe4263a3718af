"""`image_encode`: encodes pixels as image files, on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import OUTPUT_IMAGE, PIXELS, RECIPE
from flux_contract.models import IMAGE_ENCODE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.option_values import read_format
from flux_serving.backend.request_queue import QueuedModelBase
from flux_serving.images.image_decoding import Decode
from flux_serving.images.image_encoding import OutputFormat, encode_image


@dataclass(frozen=True)
class EncodeOptions:
    """The images to encode. pixels: (images, height, width, 3) uint8. recipes: JSON of each image, or None."""

    pixels: Array
    recipes: Sequence[str | None]
    output_format: OutputFormat


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
        return EncodeOptions(pixels, recipes, read_format(values))

    def prepare(self, options: EncodeOptions, decode: Decode) -> list[bytes]:
        return [
            encode_image(rgb, recipe, options.output_format)
            for rgb, recipe in zip(options.pixels, options.recipes, strict=True)
        ]

    def outputs(self, prepared: Sequence[bytes]) -> dict[Tensor, Array]:
        return {OUTPUT_IMAGE: OUTPUT_IMAGE.array(prepared)}
