"""Renders client/flux_client/keywords.py: the options of each call of the client, with types and comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from flux_contract.groups import GROUPS, ParameterGroup
from flux_contract.models import CANNY_EDGES
from flux_contract.modes import MODES, Mode
from flux_contract.parameter import Parameter, with_names
from flux_contract.parameters import CONTROL_IMAGE, IMAGE, IMAGE_MASK, OUTPUT_FORMAT, SINGLE_IMAGES
from flux_contract.tensors import DType

_HEAD = '''\
"""Options of the calls of `FluxClient`. The server uses its default for an option that is left out or None.

Rendered from contract/flux_contract by scripts/render; edit there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict

from flux_client.images import {images}

#: A mode: the name of a method of the client, and `mode` of `stream`.
ModeName = Literal[{modes}]

{choices}
'''
_WIDTH = 120
_TYPES = {DType.BYTES: "str", DType.INT32: "int", DType.INT64: "int", DType.FP32: "float"}
#: Of images, which the client encodes.
_IMAGE_TYPES = {
    IMAGE.name: "ImageInputs",
    IMAGE_MASK.name: "Masks",
    **dict.fromkeys((parameter.name for parameter in SINGLE_IMAGES), "ImageInput"),
}


def render_keywords(modes: Sequence[Mode] = MODES, groups: Sequence[ParameterGroup] = GROUPS) -> str:
    """Return the module: `ModeName`, the values of options with choices, and a TypedDict per group, mode and stream."""
    subjects = {parameter.name for mode in modes for parameter in mode.subjects}
    private = {parameter.name for mode in modes for parameter in mode.client_parameters}
    bases = [
        ParameterGroup(group.name, group.title, _without(group.parameters, subjects | private)) for group in groups
    ]
    options = {mode.name: _streamless(mode) for mode in modes}
    edges = tuple(each for each in CANNY_EDGES.inputs if isinstance(each, Parameter) and each != OUTPUT_FORMAT)
    described = _Descriptions([*(each for mode in modes for each in (*mode.parameters, *mode.client_parameters))])
    parts: list[str] = []
    used = [base for base in bases if any(_contains(of_mode, base) for of_mode in options.values())]
    for base in used:
        parts.append(_typed_dict(f"{_title(base.name)}Group", f"{base.title}.", [], base.parameters, described))
    for mode in modes:
        doc = f"Options of `{mode.name}`: {mode.purpose}."
        parts.append(_of_call(f"{_title(mode.name)}Options", doc, options[mode.name], used, described))
    parts.append(
        _of_call("EdgesOptions", "Options of `edges`.", _without(edges, {CONTROL_IMAGE.name}), used, described)
    )
    names = [f"{_title(mode.name)}Options" for mode in modes]
    taken = {parameter.name for of_mode in options.values() for parameter in of_mode} | {IMAGE.name}
    rest = [parameter for mode in modes for parameter in mode.subjects if parameter.name not in taken]
    doc = "Options of `stream` in any mode. Each mode accepts its own."
    parts.append(_typed_dict("StreamOptions", doc, names, tuple(rest), described))
    body = "\n\n".join(parts)
    images = ", ".join(name for name in sorted(set(_IMAGE_TYPES.values())) if re.search(rf"\b{name}\b", body))
    choices = "\n".join(_choices(described.parameters))
    return _HEAD.format(images=images, modes=_listed(mode.name for mode in modes), choices=choices) + "\n\n" + body


class _Descriptions:
    """Comments on parameters, with the client's names. parameters: without duplicates."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        by_name: dict[str, Parameter] = {}
        for parameter in parameters:
            by_name.setdefault(parameter.name, parameter)
        self.parameters = tuple(by_name.values())
        self._names = {name: parameter.python_name for name, parameter in by_name.items()}

    def comment(self, parameter: Parameter) -> Iterator[str]:
        # After the first sentence, the meaning describes values that the client does not offer.
        text = parameter.help if parameter.client_choices else parameter.meaning
        meaning = with_names(text, self._names)
        facts = f" {parameter.facts[0].upper()}{parameter.facts[1:]}." if parameter.facts else ""
        for line in textwrap.wrap(f"{meaning}.{facts}", _WIDTH - len("    #: "), break_on_hyphens=False):
            yield f"    #: {line}"


def _streamless(mode: Mode) -> tuple[Parameter, ...]:
    """Return the options of a mode without those of previews, which are separate arguments of `stream`."""
    previews = next(group for group in GROUPS if group.name == "previews").parameters
    return tuple(parameter for parameter in mode.options if parameter not in previews)


def _of_call(
    name: str,
    doc: str,
    options: tuple[Parameter, ...],
    bases: Sequence[ParameterGroup],
    described: _Descriptions,
) -> str:
    """Return the TypedDict of one call. It inherits a group if the call has all parameters of the group."""
    inherited = [base for base in bases if _contains(options, base)]
    own = _without(options, {parameter.name for base in inherited for parameter in base.parameters})
    return _typed_dict(name, doc, [f"{_title(base.name)}Group" for base in inherited], own, described)


def _typed_dict(
    name: str, doc: str, bases: Sequence[str], fields: tuple[Parameter, ...], described: _Descriptions
) -> str:
    lines = [f"class {name}({', '.join([*(bases or ['TypedDict']), 'total=False'])}):", f'    """{doc}"""']
    if fields:
        lines.append("")
    for field in fields:
        lines += [*described.comment(field), f"    {field.python_name}: {_type(field)} | None"]
    return "\n".join(lines) + "\n"


def _type(parameter: Parameter) -> str:
    if parameter.name in _IMAGE_TYPES:
        return _IMAGE_TYPES[parameter.name]
    one = _title(parameter.python_name) if parameter.offered_choices else _TYPES[parameter.dtype]
    return f"{one} | Sequence[{one}]" if parameter.shape == (-1,) else one


def _choices(parameters: Iterable[Parameter]) -> Iterator[str]:
    for parameter in parameters:
        if parameter.offered_choices:
            yield f"{_title(parameter.python_name)}: TypeAlias = Literal[{_listed(parameter.offered_choices)}]"


def _without(parameters: tuple[Parameter, ...], names: set[str]) -> tuple[Parameter, ...]:
    return tuple(parameter for parameter in parameters if parameter.name not in names)


def _contains(options: tuple[Parameter, ...], base: ParameterGroup) -> bool:
    return {each.name for each in base.parameters} <= {each.name for each in options}


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)


def _title(name: str) -> str:
    """Convert `image_fit` to `ImageFit`."""
    return "".join(word.capitalize() for word in re.findall(r"[a-z]+|\d+", name))
