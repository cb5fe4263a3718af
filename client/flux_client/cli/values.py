"""Converts the text of arguments to values, and the values to keyword arguments of the client."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

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
    """Raises ArgumentTypeError: the text is empty, which would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder; . is the current one")
    return Path(text)


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def keywords_from(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of every request of the command; None for an option that was not given."""
    keywords = keywords_of(options.mode)
    adapters: list[Adapter] = options.adapters
    loras = {
        LORA.python_name: [one.name for one in adapters] or None,
        LORA_SCALE.python_name: [one.scale for one in adapters] or None,
    }
    return {keyword: value for keyword, value in (vars(options) | loras).items() if keyword in keywords}
