"""Renders sections of a Markdown page between two markers, and keeps the text around them.

<!-- made:begin throughput -->
<!-- made:end throughput -->
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence


def replaced(page: str, sections: Mapping[str, str]) -> str:
    """Return the page with each section between its markers. Raises ValueError: the page lacks a marker."""
    for name, text in sections.items():
        begin, end = f"<!-- made:begin {name} -->", f"<!-- made:end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        around = pattern.split(page)
        if len(around) != 2:
            raise ValueError(f"expected once: {begin} ... {end}")
        page = f"{begin}\n\n{text.strip()}\n\n{end}".join(around)
    return page


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table. Columns after the first are aligned right."""
    return "\n".join([table_head(head), *map(table_row, rows)])


def table_head(head: Sequence[str]) -> str:
    """Return the first two lines of a table, for programs that print row by row."""
    return f"{table_row(head)}\n|---{'|---:' * (len(head) - 1)}|"


def table_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
