"""Plans the requests of a command line and the names of their output files."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from flux_client.cli.mode_arguments import blends, takes_prompts
from flux_contract.modes import Mode
from flux_contract.parameters import CONTROL_IMAGE, SOURCE_IMAGE

#: Maximum bytes that an image or prompt contributes to a file name. File systems allow 255.
_MAX_STEM = 200
#: Maximum characters of a prompt in a message.
_MAX_SHOWN = 60


class GenerationTask(NamedTuple):
    """One request. name: for messages. stem: start of the output file names. arguments: of the client's method."""

    name: str
    stem: str
    arguments: dict[str, Any]


def plan(options: argparse.Namespace) -> list[GenerationTask]:
    """Return one request for each image or prompt, or one for all images. Stems are unique."""
    tasks = list(_plan_of(options.mode)(options))
    stems = _distinct(task.stem for task in tasks)
    return [task._replace(stem=stem) for task, stem in zip(tasks, stems, strict=True)]


def _blended(options: argparse.Namespace) -> Iterator[GenerationTask]:
    if options.blend or options.image_blend:
        name = ", ".join(map(str, options.images))
        yield GenerationTask(name, "+".join(image.stem for image in options.images), {"images": options.images})
    else:
        for image in options.images:
            yield GenerationTask(str(image), image.stem, {"images": [image]})


def _changed(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for image in options.images:
        yield GenerationTask(str(image), image.stem, {"images": [image, *options.reference]})


def _prompted(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for prompt in options.prompts:
        words = re.sub(r"\W+", "-", prompt.lower()).strip("-")
        yield GenerationTask(" ".join(prompt.split())[:_MAX_SHOWN], words or "image", {"prompt": prompt})


def _controlled(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for image in options.images:
        yield GenerationTask(str(image), image.stem, {"control_image": image, "images": options.reference or None})


def _inpainted(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for image in options.images:
        arguments = {"source_image": image, "mask_image": options.mask_image, "images": options.reference or None}
        yield GenerationTask(str(image), image.stem, arguments)


def _plan_of(mode: Mode) -> Callable[[argparse.Namespace], Iterator[GenerationTask]]:
    """Return the function that turns the command's images or prompts into requests."""
    if takes_prompts(mode):
        return _prompted
    if CONTROL_IMAGE in mode.subjects:
        return _controlled
    if SOURCE_IMAGE in mode.subjects:
        return _inpainted
    return _blended if blends(mode) else _changed


def _distinct(stems: Iterable[str]) -> Iterator[str]:
    taken: set[str] = set()
    for stem in map(_cut, stems):
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        yield name


def _cut(stem: str) -> str:
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= _MAX_STEM else encoded[:_MAX_STEM].decode(errors="ignore")
