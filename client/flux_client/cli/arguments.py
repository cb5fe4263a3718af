"""What options mean to the client: their values, and the keyword arguments that they become."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from flux_client.modes import KEYWORDS
from flux_contract import limits

#: Ten previews of a picture that takes the usual 50 steps.
DEFAULT_PREVIEW_STEPS = 5
#: Keywords of options that are called otherwise.
_KEYWORD_OF = {
    "crop": "image_mask_crop",
    "detail": "image_detail",
    "detail_filter": "image_detail_filter",
    "detail_weight": "image_detail_weight",
    "edges_ready": "control_kind",
    "end": "image_end",
    "format": "output_format",
    "guidance": "guidance_scale",
    "mask": "image_mask",
    "number": "num_images",
    "start": "image_start",
    "steps": "num_inference_steps",
    "sum": "image_blend",
    "true_cfg": "true_cfg_scale",
}


class Adapter(NamedTuple):
    """A LoRA adapter, and how much of it."""

    name: str
    scale: float


def adapter(text: str) -> Adapter:
    """Of NAME, or NAME:SCALE."""
    name, colon, scale = text.partition(":")
    return Adapter(name, float(scale) if colon else 1.0)


def folder(text: str) -> Path:
    """Raises ArgumentTypeError: empty, which would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder; . is the current one")
    return Path(text)


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def knobs_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the options tell every request of the command; None where they tell nothing."""
    keywords = KEYWORDS[options.command]
    named = {_KEYWORD_OF.get(option, option): value for option, value in vars(options).items()}
    adapters: list[Adapter] = options.lora
    told = {"lora": [one.name for one in adapters] or None, "lora_scale": [one.scale for one in adapters] or None}
    return {keyword: value for keyword, value in (named | told).items() if keyword in keywords}


def preview_steps_of(options: argparse.Namespace) -> int | None:
    given: int | None = options.preview_steps
    if options.previews is None or given is not None:
        return given
    return min(DEFAULT_PREVIEW_STEPS, max(1, (options.steps or limits.DEFAULT_STEPS) // 2))
