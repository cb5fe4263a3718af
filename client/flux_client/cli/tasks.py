"""Which requests a command line asks for, and how their outputs' names begin."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

#: Bytes of a file's name that come from its picture or prompt; file systems end at 255.
_MAX_STEM = 200
#: Characters of a prompt that messages show.
_MAX_SHOWN = 60


class GenerationTask(NamedTuple):
    """One request: its name in messages, how its outputs' names begin, and its subject by the client's keywords."""

    name: str
    stem: str
    arguments: dict[str, Any]


def plan(options: argparse.Namespace) -> list[GenerationTask]:
    """One request for each picture or prompt, or one for all; no two begin their outputs' names alike."""
    tasks = list(_PLANS[options.command](options))
    stems = _distinct(task.stem for task in tasks)
    return [task._replace(stem=stem) for task, stem in zip(tasks, stems, strict=True)]


def _redux(options: argparse.Namespace) -> Iterator[GenerationTask]:
    if options.blend or options.sum:
        name = ", ".join(map(str, options.pictures))
        yield GenerationTask(name, "+".join(picture.stem for picture in options.pictures), {"images": options.pictures})
    else:
        for picture in options.pictures:
            yield GenerationTask(str(picture), picture.stem, {"images": [picture]})


def _img2img(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for picture in options.pictures:
        yield GenerationTask(str(picture), picture.stem, {"images": [picture, *options.reference]})


def _text2img(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for prompt in options.prompts:
        words = re.sub(r"\W+", "-", prompt.lower()).strip("-")
        yield GenerationTask(" ".join(prompt.split())[:_MAX_SHOWN], words or "picture", {"prompt": prompt})


def _canny(options: argparse.Namespace) -> Iterator[GenerationTask]:
    for picture in options.pictures:
        yield GenerationTask(
            str(picture), picture.stem, {"control_image": picture, "images": options.reference or None}
        )


_PLANS = {"redux": _redux, "img2img": _img2img, "text2img": _text2img, "canny": _canny}


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
