"""Groups of parameters for the command line's help, the client's keyword types and the documentation.

To add a parameter to a group, add it to the tuple in `parameters`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flux_contract.parameter import Parameter
from flux_contract.parameters import (
    CONTROL_IMAGE,
    CONTROL_PARAMETERS,
    EDGE_PARAMETERS,
    IMAGE,
    IMAGE_PARAMETERS,
    IMG2IMG_PARAMETERS,
    MASK_IMAGE,
    MASK_PARAMETERS,
    OUTPUT_FORMAT,
    PREVIEW_PARAMETERS,
    PROMPT,
    PROMPT_PARAMETERS,
    SAMPLING_PARAMETERS,
    SIMILARITY,
    SIZE,
    SOURCE_IMAGE,
)


@dataclass(frozen=True)
class ParameterGroup:
    """A group of related parameters. name: one word, for identifiers. title: for readers."""

    name: str
    title: str
    parameters: tuple[Parameter, ...]


#: A parameter may be in several groups; a mode shows it in the first of these groups that the mode has.
GROUPS: tuple[ParameterGroup, ...] = (
    ParameterGroup("images", "Images", (IMAGE, SIMILARITY, *IMAGE_PARAMETERS)),
    ParameterGroup("prompt", "Prompt", (PROMPT, *PROMPT_PARAMETERS)),
    ParameterGroup("mask", "Inpainting", (SOURCE_IMAGE, MASK_IMAGE, *MASK_PARAMETERS)),
    ParameterGroup("change", "Image-to-image", IMG2IMG_PARAMETERS),
    ParameterGroup("edges", "Edges", (CONTROL_IMAGE, *EDGE_PARAMETERS)),
    ParameterGroup("control", "ControlNet", CONTROL_PARAMETERS),
    ParameterGroup("size", "Size", SIZE),
    ParameterGroup(
        "sampling", "Sampling", (*(each for each in SAMPLING_PARAMETERS if each not in SIZE), OUTPUT_FORMAT)
    ),
    ParameterGroup("previews", "Previews", PREVIEW_PARAMETERS),
)
