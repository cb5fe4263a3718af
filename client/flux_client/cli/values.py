"""Converts command-line arguments to values, and values to keyword arguments of the client."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from flux_client.images import encode_image
from flux_client.modes import keywords_of
from flux_contract.parameters import LORA, LORA_SCALE


class Adapter(NamedTuple):
    """A LoRA adapter and its scale."""

    name: str
    scale: float


def adapter(text: str) -> Adapter:
    """Parse NAME or NAME:SCALE."""
    name, colon, scale = text.partition(":")
    return Adapter(name, float(scale) if colon else 1.0)


def folder(text: str) -> Path:
    """Parse a folder. Raises ArgumentTypeError: the text is empty, which `Path` reads as the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder name; use . for the current folder")
    return Path(text)


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def with_pipes_read(arguments: dict[str, Any], pipes: dict[Path, bytes]) -> dict[str, Any]:
    """Replace each path of a pipe by its content. A pipe can be read once, but several requests may need its image.

    pipes: contents already read, by path. This function adds to it.
    """

    def content(value: Any) -> Any:
        if isinstance(value, list):
            return [content(each) for each in value]
        if not isinstance(value, Path) or not value.is_fifo():
            return value
        if value not in pipes:
            pipes[value] = encode_image(value)
        return pipes[value]

    return {keyword: content(value) for keyword, value in arguments.items()}


def keywords_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of every request of the command; None for an option that was not given."""
    keywords = keywords_of(options.mode)
    adapters: list[Adapter] = options.adapters
    loras = {
        LORA.python_name: [one.name for one in adapters] or None,
        LORA_SCALE.python_name: [one.scale for one in adapters] or None,
    }
    return {keyword: value for keyword, value in (vars(options) | loras).items() if keyword in keywords}
