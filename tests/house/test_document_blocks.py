"""Every link and block of code in the documentation: links lead somewhere, code parses, and options exist.

tests/live/test_docs.py runs the blocks that need only a server.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from documents import PAGES, ROOT, Block, anchors, blocks, commands, links
from flux_contract.modes import BY_NAME

BASH = [block for page in PAGES for block in blocks(page, "bash", "sh")]
PYTHON = [block for page in PAGES for block in blocks(page, "python")]
#: Programs whose options are compared with their help, each with the command that prints it.
BIN = Path(sys.executable).parent
PROGRAMS = {
    "flux-client": (str(BIN / "flux-client"),),
    "flux-gateway": (str(BIN / "flux-gateway"),),
    "hf": (str(BIN / "hf"),),
    "scripts/demo": (sys.executable, "-m", "flux_tools.demo"),
    "scripts/serve": (sys.executable, "-m", "flux_serving.launch"),
}
#: Words after the program that are its commands.
COMMANDS = {*BY_NAME, "ready", "key", "check", "serve", "download", "auth", "login"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    broken = []
    for target, anchor in links(page):
        file = (ROOT / page).parent / target if target else ROOT / page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_readme_links_to_every_page(readme: str) -> None:
    linked = {target for target, _ in links(readme)}
    assert [page for page in PAGES if page not in linked | {readme}] == []


def test_every_answer_of_the_faq_is_short_and_links_to_a_page() -> None:
    answers = re.split(r"^### ", (ROOT / "docs/faq.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(answers) > 20
    for answer in answers:
        question, _, text = answer.partition("\n")
        assert question.endswith(("?", "Why?")), question
        assert "](" in text, question
        assert len(text.split()) < 90, question


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_parses(block: Block) -> None:
    compile(block.code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize("block", BASH, ids=str)
def test_bash_block_parses(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", BASH, ids=str)
def test_bash_block_runs_files_and_options_that_exist(block: Block) -> None:
    for line in commands(block):
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if not words:
            continue
        program = words[0].removeprefix("./")
        if program.startswith("scripts/"):
            assert (ROOT / program).exists(), line
        if program in PROGRAMS:
            named = tuple(word for word in words[1:3] if word in COMMANDS)
            options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            known = options_of(program, named)
            assert [option for option in options if option not in known] == [], line


@cache
def options_of(program: str, named: tuple[str, ...]) -> frozenset[str]:
    """Returns the options that the program's help lists."""
    done = subprocess.run([*PROGRAMS[program], *named, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.stdout))
