"""Events of a stream: progress, previews and results."""

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
    """Preview of an unfinished image. data: a JPEG, which may be smaller than the final image."""

    data: bytes = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The decoded image, cached. Raises GenerationFailed: the data is not an image."""
        return decoded(self.data, f"{FLUX_STREAM.name}: {PREVIEW.name}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JPEG to a file and return its path."""
        target = Path(path)
        target.write_bytes(self.data)
        return target


@dataclass(frozen=True)
class Progress:
    """Progress of one image.

    image: index from 0. step: completed denoising steps; 0 means that the server accepted the request. steps: total
    number of steps. preview: the image after one of the requested steps; a `vae` preview takes longer, so it arrives
    with a later step or is skipped in favor of the next.
    """

    image: int
    step: int
    steps: int
    preview: Preview | None = None


#: A stream yields any number of Progress events, then one ImageResult for each image.
Event: TypeAlias = "Progress | ImageResult"


def read_events(answer: Answer) -> list[Event]:
    """Convert one response of flux_stream to events. Raises GenerationFailed: its outputs are invalid."""
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
