"""Generated parts of a Markdown page: between two markers, so that what people wrote around them stays.

<!-- made:begin throughput -->
<!-- made:end throughput -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def replaced(page: str, sections: Mapping[str, str]) -> str:
    """The page with the text of each section between its markers. Raises ValueError: the page lacks a marker."""
    for name, text in sections.items():
        begin, end = f"<!-- made:begin {name} -->", f"<!-- made:end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        around = pattern.split(page)
        if len(around) != 2:
            raise ValueError(f"expected once: {begin} ... {end}")
        page = f"{begin}\n\n{text.strip()}\n\n{end}".join(around)
    return page


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns after the first are aligned right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
