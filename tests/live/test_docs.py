"""Runs every code block of docs/calling-triton.md and docs/rest.md, with only the ports changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from images import drawn_image

pytestmark = pytest.mark.live

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE = DOCS / "calling-triton.md"
REST = re.findall(r"```python\n(.*?)```", (DOCS / "rest.md").read_text(), re.DOTALL)
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{n}-{lang}" for n, (lang, _) in enumerate(BLOCKS)])
def test_a_block_of_the_page_writes_images(demo_server: TritonServer, tmp_path: Path, language: str, code: str) -> None:
    drawn_image(11).save(tmp_path / "image.png")
    code = code.replace("localhost:8001", demo_server.grpc_url).replace("localhost:8000", demo_server.http_url)
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    variations = sorted(tmp_path.glob("variation*.png"))
    assert variations
    for variation in variations:
        with Image.open(variation) as image:
            assert image.size == (64, 64)


def test_the_page_has_all_seven_ways() -> None:
    assert [language for language, _ in BLOCKS] == ["python"] * 4 + ["bash", "python", "bash"]


@pytest.mark.parametrize("code", REST)
def test_a_block_of_the_page_of_rest_runs(gateway: Gateway, tmp_path: Path, code: str) -> None:
    code = code.replace("http://localhost:12411", gateway.url)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True, timeout=120)
