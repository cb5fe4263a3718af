"""Rendered tables inside hand-written pages."""

from __future__ import annotations

import pytest

from flux_contract.groups import GROUPS
from flux_contract.parameter import with_names
from flux_contract.parameters import CANNY_LOW, PROMPT, SEED
from flux_rendering.tables import replace_sections

PAGE = "# Page\n\n<!-- rendered: {} -->\n{}<!-- rendered end -->\n\nText\n"


def test_replaces_a_section_and_keeps_the_rest_of_the_page() -> None:
    page = replace_sections(PAGE.format("parameters edges prompt", "stale\n"))
    assert page.startswith("# Page\n\n<!-- rendered: parameters edges prompt -->\n\n| keyword |")
    assert page.endswith("\n\n<!-- rendered end -->\n\nText\n")
    assert "stale" not in page
    assert f"| `{CANNY_LOW.python_name}` | `CANNY_LOW` | `--canny-low` | 0..2000 | `100` | canny |" in page
    assert f"| `{PROMPT.python_name}` |" in page


def test_rendering_twice_returns_the_same_page() -> None:
    page = replace_sections(PAGE.format("groups", ""))
    assert replace_sections(page) == page
    assert page.count("\n| [") == len(GROUPS)


@pytest.mark.parametrize("section", ["parameters nonsense", "nonsense"])
def test_rejects_unknown_section(section: str) -> None:
    with pytest.raises(KeyError, match="nonsense"):
        replace_sections(PAGE.format(section, ""))


def test_meanings_use_the_names_of_their_readers() -> None:
    meaning = "Lower than CANNY_HIGH, see SEED and SEEDS"
    assert with_names(meaning, {SEED.name: "seed"}) == "Lower than CANNY_HIGH, see seed and SEEDS"


def test_facts_are_bounds_unit_and_default() -> None:
    assert SEED.facts == "-1..2^63-1; default: 42"
    assert CANNY_LOW.facts == "0..2000; default: 100"
    assert PROMPT.facts == "at most 4096 characters, UTF-8"
