"""Events of a stream: progress of each image, previews, and the results."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from flux_client.image_result import ImageResult, decoded, read_results
from flux_client.transport import Answer
from flux_contract.errors import GenerationFailed
from flux_contract.internal_tensors import OUTPUT_IMAGE, PREVIEW, PROGRESS
from flux_contract.models import FLUX_STREAM
from flux_contract.tensors import Tensor


@dataclass(frozen=True)
class Preview:
    """An image on its way, smaller than the image will be. data: a JPEG."""

    data: bytes = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The decoded image; decoded when first asked for. Raises GenerationFailed: the bytes are not images."""
        return decoded(self.data, f"{FLUX_STREAM.name}: {PREVIEW.name}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bytes as they came."""
        target = Path(path)
        target.write_bytes(self.data)
        return target


@dataclass(frozen=True)
class Progress:
    """How far one image is.

    image: its number, counted from 0. step: denoising steps done; 0 says that the server has taken the request.
    steps: steps in all. preview: the image as it stood after one of the steps asked for; one made with `vae` takes its
    time, so it comes with a later step, or is left out for the next.
    """

    image: int
    step: int
    steps: int
    preview: Preview | None = None


#: Any number of Progress, then one ImageResult for each image.
Event: TypeAlias = "Progress | ImageResult"


def read_events(answer: Answer) -> list[Event]:
    """One answer of flux_stream to its events. Raises GenerationFailed: its outputs break the contract."""
    events: list[Event] = []
    if PROGRESS.name in answer:
        image, step, steps = _values(answer, PROGRESS)
        preview = Preview(bytes(*_values(answer, PREVIEW))) if PREVIEW.name in answer else None
        events.append(Progress(image, step, steps, preview))
    if OUTPUT_IMAGE.name in answer:
        events += read_results(answer, FLUX_STREAM.name)
    return events


def _values(answer: Answer, tensor: Tensor) -> list[Any]:
    array = answer[tensor.name]
    if array.shape != (1, *tensor.shape):
        raise GenerationFailed(
            f"{FLUX_STREAM.name}: {tensor.name} has shape {list(array.shape)}, expected {[1, *tensor.shape]}"
        )
    values: list[Any] = array[0].tolist()
    return values
