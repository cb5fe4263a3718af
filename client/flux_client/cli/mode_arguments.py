"""Arguments of a mode's command, derived from the mode's parameters."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flux_client.cli.values import adapter, folder, integers, numbers
from flux_contract.groups import GROUPS
from flux_contract.modes import Mode
from flux_contract.parameter import Parameter, with_names
from flux_contract.parameters import (
    CONTROL_KIND,
    IMAGE,
    IMAGE_BLEND,
    IMAGE_MASK,
    LORA,
    LORA_SCALE,
    PREVIEW_STEPS,
    PROMPT,
)
from flux_contract.tensors import DType

#: Number of steps between two previews, unless the image has few steps.
DEFAULT_PREVIEW_STEPS = 5


class _Type(NamedTuple):
    """Parsers for one value and for several values separated by commas."""

    one: Callable[[str], Any]
    several: Callable[[str], Any]
    metavar: str


_TYPES: Mapping[DType, _Type] = {
    DType.BYTES: _Type(str, str, "TEXT"),
    DType.INT32: _Type(int, integers, "N"),
    DType.INT64: _Type(int, integers, "N"),
    DType.FP32: _Type(float, numbers, "X"),
}


def add_parameters(command: argparse.ArgumentParser, mode: Mode) -> None:
    """Add the options of a mode, in groups. The destination of each option is its keyword."""
    flags = {each.name: each.all_flags[-1] for each in mode.options if each.all_flags}
    left = {each.name: each for each in mode.options}
    for group in GROUPS:
        members = [left.pop(each.name) for each in group.parameters if each.name in left]
        if members:
            _add_all(command.add_argument_group(group.title), members, flags)
    if left:
        _add_all(command, list(left.values()), flags)


def _add_all(section: argparse._ActionsContainer, members: list[Parameter], flags: Mapping[str, str]) -> None:
    for parameter in members:
        if parameter.name in _ADDED_BY_HAND:
            _ADDED_BY_HAND[parameter.name](section)
        elif parameter.all_flags:
            section.add_argument(*parameter.all_flags, **_settings(parameter, flags))


def _settings(parameter: Parameter, flags: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `add_argument`. flags: by tensor name, for the help."""
    if parameter.is_switch:
        help_text = with_names(parameter.help, flags).removeprefix("1 ")
        return {"dest": parameter.python_name, "help": help_text, "action": "store_const", "const": 1}
    facts = f" ({parameter.facts})" if parameter.facts else ""
    settings: dict[str, Any] = {
        "dest": parameter.python_name,
        "help": (with_names(parameter.help, flags) + facts).replace("%", "%%"),
    }
    if parameter.name == IMAGE_MASK.name:
        return settings | {"type": Path, "action": "append", "metavar": "FILE"}
    if parameter.offered_choices:
        return settings | {"choices": parameter.offered_choices}
    value = _TYPES[parameter.dtype]
    if parameter.shape == (-1,):
        return settings | {"type": value.several, "metavar": f"{value.metavar},..."}
    return settings | {"type": value.one, "metavar": value.metavar}


def _add_sum(section: argparse._ActionsContainer) -> None:
    section.add_argument(
        "--sum",
        dest=IMAGE_BLEND.python_name,
        action="store_const",
        const="sum",
        help="Combine the images as diffusers does, by a weighted sum of their tokens",
    )


def _add_edge_maps(section: argparse._ActionsContainer) -> None:
    section.add_argument(
        "--edges-ready",
        dest=CONTROL_KIND.python_name,
        action="store_const",
        const="edges",
        help="The images are edge maps, white on black",
    )
    section.add_argument(
        "--edges-out", type=folder, metavar="FOLDER", help="Write edge maps to this folder, as name-edges.png"
    )


def _add_adapters(section: argparse._ActionsContainer) -> None:
    section.add_argument(
        "--lora",
        dest="adapters",
        type=adapter,
        action="append",
        default=[],
        metavar="NAME[:SCALE]",
        help=f"LoRA adapter on the server, and its scale ({LORA_SCALE.facts}); repeat the option for several",
    )


def _add_previews(section: argparse._ActionsContainer) -> None:
    section.add_argument(
        "--previews", type=folder, metavar="FOLDER", help="Write previews to this folder, as name-mode-image-step.jpg"
    )
    section.add_argument(
        "--preview-steps",
        type=int,
        metavar="N",
        help=f"{PREVIEW_STEPS.help} ({PREVIEW_STEPS.bounds}; "
        f"default: {DEFAULT_PREVIEW_STEPS}, or half the number of steps if that is less)",
    )


#: Parameters that the command line accepts in another form.
_ADDED_BY_HAND: Mapping[str, Callable[[argparse._ActionsContainer], None]] = {
    IMAGE_BLEND.name: _add_sum,
    CONTROL_KIND.name: _add_edge_maps,
    LORA.name: _add_adapters,
    PREVIEW_STEPS.name: _add_previews,
}


def required_options(mode: Mode) -> tuple[Parameter, ...]:
    """Images that the mode requires besides those of the command's arguments, each under a flag of its own."""
    return tuple(each for each in mode.subjects if each.all_flags and each.name != PROMPT.name)


def takes_prompts(mode: Mode) -> bool:
    """Whether the command's arguments are prompts, not images."""
    return any(each.name == PROMPT.name for each in mode.subjects)


def blends(mode: Mode) -> bool:
    """Whether one request can combine the images of the command, as in Redux."""
    return IMAGE in mode.subjects
