"""The documentation's pages, links, and blocks of code, for the tests that check them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Every page that a reader of the repository opens, by its path.
PAGES = (
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
)
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code. number: its position among the blocks of its page."""

    page: str
    number: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}-{self.language}"


def blocks(page: str, *languages: str) -> list[Block]:
    """Returns the blocks of a page in these languages, without their indentation."""
    found = _BLOCK.findall((ROOT / page).read_text())
    every = [
        Block(page, number, language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE))
        for number, (indent, language, code) in enumerate(found)
    ]
    return [block for block in every if block.language in languages]


def commands(block: Block) -> list[str]:
    """Returns the command lines of a bash block, with continuation lines joined, without comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def links(page: str) -> list[tuple[str, str]]:
    """Returns the path and the anchor of every link to a file of the repository."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text)
    return [(target, anchor) for target, anchor in found]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page: those of its headings, as GitHub makes them, and explicit ones."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))
