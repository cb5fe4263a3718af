"""`Parameter`: an input tensor together with its names outside Triton."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flux_contract.tensors import Bounds, DType, Tensor


@dataclass(frozen=True)
class RestField:
    """How a REST API exposes a parameter.

    name: of the field; empty for the keyword. aliases: other names that the API accepts. default, bounds, choices,
    meaning: if they differ from those of the parameter, for example because the API requires another default or accepts
    one value instead of a list.
    """

    name: str = ""
    aliases: tuple[str, ...] = ()
    default: int | float | str | None = None
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    meaning: str = ""


@dataclass(frozen=True)
class Parameter(Tensor):
    """An input that a client may set.

    keyword: of the client's methods; empty for the tensor's name in lower case. flags: of the command line; empty for
    `--` and the keyword with dashes, None for a parameter that the command line does not have under a flag of its own.
    client_choices: of the client and the command line, if they offer fewer choices than the tensor accepts. genserve,
    openai: the field of the API; None if the API does not expose the parameter. on_page: the web page has a control.
    per_image: one value for all input images, or one for each. multiple_of: of a whole number. max_characters: of a
    text. page_default: initial value on the page, if the default disables the parameter.
    """

    keyword: str = ""
    flags: tuple[str, ...] | None = ()
    client_choices: tuple[str, ...] = ()
    genserve: RestField | None = None
    openai: RestField | None = None
    on_page: bool = False
    per_image: bool = False
    multiple_of: int = 1
    max_characters: int | None = None
    page_default: int | float | None = None

    @property
    def python_name(self) -> str:
        """The client's keyword."""
        return self.keyword or self.name.lower()

    @property
    def all_flags(self) -> tuple[str, ...]:
        """Flags of the command line; empty if there are none."""
        if self.flags is None:
            return ()
        return self.flags or ("--" + self.python_name.replace("_", "-"),)

    @property
    def help(self) -> str:
        """The first sentence of the meaning, without Markdown's code marks."""
        return self.meaning.split(". ")[0].rstrip(".").replace("`", "")

    @property
    def offered_choices(self) -> tuple[str, ...]:
        """Values that the client and the command line accept; empty for any."""
        return self.client_choices or self.choices

    @property
    def is_switch(self) -> bool:
        """Whether the values are 0 and 1."""
        return self.dtype is DType.INT32 and self.bounds == Bounds(0, 1)

    @property
    def facts(self) -> str:
        """Bounds with unit, and default, such as `16..4096 pixels` and `1..8; default: 2`; may be empty."""
        allowed = " ".join(filter(None, (str(self.bounds or ""), self.unit)))
        default = f"{self.default:g}" if isinstance(self.default, float) else self.default
        return "; ".join(filter(None, (allowed, f"default: {default}" if default not in (None, "") else "")))


def with_names(text: str, names: Mapping[str, str]) -> str:
    """Replace tensor names in a text. names: by tensor name."""
    return re.sub(r"\b[A-Z][A-Z0-9_]+\b", lambda found: names.get(found[0], found[0]), text)


#: End of the meaning of a parameter per image.
PER_IMAGE = ". One value for all images, or one for each"
