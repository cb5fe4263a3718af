"""Results: images, each with its seed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from flux_contract.errors import GenerationFailed
from flux_contract.internal_tensors import OUTPUT_IMAGE, OUTPUT_SEED
from flux_contract.tensors import Array


def opened(data: bytes, name: str) -> Image.Image:
    """Open the image in `data` without decoding its pixels. Raises GenerationFailed: `name` is not an image."""
    try:
        return Image.open(BytesIO(data))
    except UnidentifiedImageError as error:
        raise GenerationFailed(f"{name} is not an image") from error


def decoded(data: bytes, name: str) -> Image.Image:
    """Decode the image in `data`. Raises GenerationFailed: `name` is not an image."""
    image = opened(data, name)
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise GenerationFailed(f"{name} is not an image") from error
    return image


@dataclass(frozen=True)
class ImageResult:
    """One generated image. data: its encoded bytes. seed: a request with this seed reproduces the image."""

    data: bytes = field(repr=False)
    seed: int

    @cached_property
    def image(self) -> Image.Image:
        """The decoded image, cached. Raises GenerationFailed: the data is not an image."""
        return decoded(self.data, self._name)

    @cached_property
    def format(self) -> str:
        """`png`, `jpeg` or `webp`, detected from the data. Raises GenerationFailed: the data is not an image."""
        return str(opened(self.data, self._name).format).lower()

    @cached_property
    def recipe(self) -> dict[str, Any] | None:
        """Parameters that generated the image, or None if the file has none.

        It always has model, seed, steps, guidance, width, height, instance (of flux_base, such as `flux_base_0_0`) and
        device (such as `cuda:7` or `cpu`), and other parameters that the request set, such as a strength or adapters.
        The file stores it as JSON in EXIF ImageDescription, so saving the image keeps it.
        """
        description = opened(self.data, self._name).getexif().get(ExifTags.Base.ImageDescription)
        try:
            recipe = json.loads(description) if isinstance(description, str) else None
        except ValueError:
            return None
        return recipe if isinstance(recipe, dict) else None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the data unchanged, with its metadata, and return the path. The suffix does not change the format."""
        target = Path(path)
        target.write_bytes(self.data)
        return target

    @property
    def _name(self) -> str:
        return f"{OUTPUT_IMAGE.name} of seed {self.seed}"


def read_results(answer: Mapping[str, Array], model: str) -> list[ImageResult]:
    """Convert outputs of an ensemble or of flux_stream, of shape [1, n], to n results.

    model: its name, for messages.
    Raises GenerationFailed: an output is missing, or the numbers of images and seeds differ.
    """
    for tensor in (OUTPUT_IMAGE, OUTPUT_SEED):
        if tensor.name not in answer:
            raise GenerationFailed(f"{model}: the response has no {tensor.name}")
    images, seeds = answer[OUTPUT_IMAGE.name].ravel(), answer[OUTPUT_SEED.name].ravel()
    if len(images) == 0 or len(images) != len(seeds):
        raise GenerationFailed(f"{model}: the response has {len(images)} images and {len(seeds)} seeds")
    return [ImageResult(bytes(data), int(seed)) for data, seed in zip(images, seeds, strict=True)]
