"""Runs the blocks of README and docs that need only a server and the demo's images; only the ports are the test's.

tests/house/test_document_blocks.py checks the syntax and options of all blocks, including those that cannot run here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from documents import PAGES, ROOT, Block, blocks, commands
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from images import drawn_image

pytestmark = pytest.mark.live

CALLING = "docs/calling-triton.md"
#: Pages whose blocks are run by other tests below, or do not call a server.
ELSEWHERE = {CALLING}
#: Python blocks that need a file or a server that is not here, by a piece of their code.
NOT_RUN = (
    "trained.safetensors",
    "from_single_file",
    "triton-1:8001",
)
#: Programs that only call a server. A bash block that calls any other program is not run here.
RUN = ("flux-client", "curl")


def runs_here(block: Block) -> bool:
    if block.page in ELSEWHERE:
        return False
    if block.language == "python":
        return not any(piece in block.code for piece in NOT_RUN)
    called = [line.split()[0] for line in commands(block)]
    return bool(called) and all(program in RUN for program in called)


CALLING_BLOCKS = blocks(CALLING, "python", "bash")
BLOCKS = [block for page in PAGES for block in blocks(page, "python", "bash") if runs_here(block)]


def run(block: Block, folder: Path, server: TritonServer, gateway_url: str | None = None) -> None:
    """Run a block in a folder, with the repository's `tools` beside it, and the server's ports."""
    code = block.code.replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)
    code = code.replace("http://localhost:12411", gateway_url or "")
    code = re.sub(r"^(flux-client \w+)", rf"\1 --url {server.grpc_url}", code, flags=re.MULTILINE)
    code = code.replace("curl ", "curl --fail --silent --show-error --output answer.out ") if gateway_url else code
    command = [sys.executable, "-W", "ignore", "-c", code] if block.language == "python" else ["bash", "-euc", code]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, cwd=folder, check=True, timeout=240, env={**os.environ, "PATH": path})


@pytest.mark.parametrize("block", CALLING_BLOCKS, ids=str)
def test_block_of_calling_triton_writes_images(demo_server: TritonServer, tmp_path: Path, block: Block) -> None:
    drawn_image(11).save(tmp_path / "image.png")
    run(block, tmp_path, demo_server)
    variations = sorted(tmp_path.glob("variation*.png"))
    assert variations
    for variation in variations:
        with Image.open(variation) as image:
            assert image.size == (64, 64)


def test_calling_triton_has_all_seven_ways() -> None:
    assert [block.language for block in CALLING_BLOCKS] == ["python"] * 4 + ["bash", "python", "bash"]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_runs(demo_server: TritonServer, gateway: Gateway, tmp_path: Path, block: Block) -> None:
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    run(block, tmp_path, demo_server, gateway.url)


def test_both_readmes_are_run() -> None:
    for page in ("README.md", "README.zh.md"):
        assert [block.language for block in BLOCKS if block.page == page] == ["python", "python", "bash", "bash"]
