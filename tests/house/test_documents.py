"""The documentation for contributors names files, classes and functions that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
#: Written by commands, and ignored by git.
NOT_COMMITTED = {"runs", "out", "demo_out", "checkpoints/demo", ".venv-test"}
#: Where the page's names are defined.
SOURCES = ("contract", "serving", "client", "gateway")
#: A path of this repository: a file with an extension, or anything in one of its folders.
PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)+|\w+\.(py|md|toml|pbtxt|yaml)")


def code_in(text: str) -> list[str]:
    """Return the code spans outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def paths_in(text: str) -> list[str]:
    words = (code.split()[0] for code in code_in(text))
    return [word for word in words if "/" in word and PATH.fullmatch(word)]


@cache
def defined() -> frozenset[str]:
    """Return the names of all classes, functions, methods, fields and constants of the product."""
    names: set[str] = set()
    for folder in SOURCES:
        for file in (ROOT / folder).rglob("*.py"):
            names |= names_in(file)
    return frozenset(names)


@cache
def names_in(file: Path) -> frozenset[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))}
    return frozenset(
        names | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    named = paths_in((ROOT / page).read_text())
    assert named
    missing = [path for path in named if path not in NOT_COMMITTED and not list(ROOT.glob(path))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_class_and_function_exists(page: str) -> None:
    classes = [code for code in code_in((ROOT / page).read_text()) if re.fullmatch(r"([A-Z][a-z]+){2,}", code)]
    parts = [
        part
        for code in code_in((ROOT / page).read_text())
        if re.fullmatch(r"[A-Z][a-z]\w+\.\w+", code)
        for part in code.split(".")
    ]
    assert [name for name in (*classes, *parts) if name not in defined()] == []


def test_every_name_in_a_diagram_exists() -> None:
    diagrams = "\n".join(re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL))
    methods = re.findall(r"\b([A-Z]\w+)\.(\w+)", diagrams)
    functions = re.findall(r"\b(\w+)\(\)", diagrams)
    assert methods
    assert functions
    assert [name for name in (*sum(methods, ()), *functions) if name not in defined()] == []


def test_every_name_in_the_table_exists_in_its_file() -> None:
    """A row of the table from IMAGE_STRENGTH to the attention bias: a number, a file, a name in it, and a sentence."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| \d+ \| `([^`]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert len(rows) > 10
    assert [(file, name) for file, name in rows if name not in names_in(ROOT / file)] == []
