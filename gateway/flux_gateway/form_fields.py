"""Converts parts of a form to fields."""

from __future__ import annotations

import re
from collections.abc import Iterable

_INDEXED = re.compile(r"(.+?)\[(\d{0,6})\]", re.DOTALL)


def form_fields(parts: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes | list[str | bytes]]:
    """Returns each field's value, or a list for a name that is repeated or written `name[]` or `name[0]`.

    parts: names and values in the form's order. Empty ones, such as files that were not selected, are omitted.
    A list starts with the values without an index, in the form's order, followed by the others, sorted by index.
    """
    found: dict[str, list[tuple[int, str | bytes]]] = {}
    lists: set[str] = set()
    for name, value in parts:
        if not value:
            continue
        index = -1
        if (indexed := _INDEXED.fullmatch(name)) is not None:
            name, index = indexed[1], int(indexed[2] or -1)
            lists.add(name)
        found.setdefault(name, []).append((index, value))
    fields: dict[str, str | bytes | list[str | bytes]] = {}
    for name, values in found.items():
        ordered = [value for _, value in sorted(values, key=lambda each: each[0])]
        fields[name] = ordered if name in lists or len(ordered) > 1 else ordered[0]
    return fields
