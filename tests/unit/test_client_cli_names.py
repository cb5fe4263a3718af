"""`flux-client` with unusual file names and output encodings, in a process of its own with a fake server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from flux_client.cli.outputs import with_flags
from flux_contract.modes import INPAINT

SCRIPT = textwrap.dedent(
    """
    import sys
    from flux_client import FluxClient
    from flux_client.cli import main
    from flux_client.fake import FakeTransport
    sys.exit(main(sys.argv[1:], lambda url, **_: FluxClient(transport=FakeTransport())))
    """
)
NAMES = [b"cat.png", b"k\xc3\xa4tzchen \xf0\x9f\x90\xb1.png", b"not\xffutf8.png", b"two\nlines.png", b"\x1b[31mred.png"]


def command(*argv: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    words = [word if isinstance(word, bytes) else os.fsencode(str(word)) for word in argv]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], env=environment | variables, capture_output=True, timeout=120
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1", "LANG": "C.UTF-8"},
        {"LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LANG": "C.UTF-8"},
    ],
)
def test_every_file_name_is_accepted_and_printed_on_one_line(tmp_path: Path, variables: dict[str, str]) -> None:
    out = tmp_path / "out"
    for name in NAMES:
        Image.new("RGB", (8, 8), "red").save(tmp_path / os.fsdecode(name))
    folder = os.fsencode(tmp_path)
    ended = command("redux", *(folder + b"/" + name for name in NAMES), "--quiet", "-o", out, **variables)
    assert ended.stderr == b""
    assert ended.returncode == 0
    assert sorted(os.listdir(os.fsencode(out))) == sorted(name.replace(b".png", b"-redux-42.png") for name in NAMES)
    printed = ended.stdout.splitlines()
    assert len(printed) == len(NAMES)
    assert printed[0] == os.fsencode(out / "cat-redux-42.png")
    assert printed[3].endswith(b"two\\nlines-redux-42.png")
    assert b"\x1b" not in ended.stdout


def test_each_bad_image_is_reported_and_other_tasks_continue(tmp_path: Path) -> None:
    """A missing file, a folder, an empty file and a circular link, between good images."""
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    bad = [b"missing.png", b"folder.png", b"empty.png", b"circle.png", b"not\xffthere.png"]
    given = [b"a.png", *bad[:3], b"b.png", *bad[3:], b"c.png"]
    out = tmp_path / "out"
    folder = os.fsencode(tmp_path)
    ended = command("redux", *(folder + b"/" + name for name in given), "--quiet", "-o", out, PYTHONIOENCODING="ascii")
    assert ended.returncode == 1
    assert sorted(os.listdir(out)) == ["a-redux-42.png", "b-redux-42.png", "c-redux-42.png"]
    lines = ended.stderr.splitlines()
    assert len(lines) == len(bad), ended.stderr
    for line, name in zip(lines, [*bad[:4], rb"not\udcffthere.png"], strict=True):
        assert line.startswith(b"flux-client: "), line
        assert name in line


def test_a_prompt_that_is_not_utf_8_fails_and_others_continue(tmp_path: Path) -> None:
    ended = command("text2img", b"an \xff owl", "a fox", "--quiet", "-o", tmp_path, LANG="C.UTF-8")
    assert ended.returncode == 1
    assert [name for name in os.listdir(tmp_path) if "fox" in name] == ["a-fox-text2img-42.png"]
    [line] = ended.stderr.splitlines()
    assert line.startswith(rb"flux-client: an \udcff owl: ")


@pytest.mark.slow
def test_help_is_printed_in_every_encoding() -> None:
    for word in ("redux", "img2img", "text2img", "canny"):
        ended = command(word, "--help", PYTHONIOENCODING="ascii")
        assert (ended.returncode, ended.stderr) == (0, b"")


def test_errors_of_a_mask_name_its_flag() -> None:
    message = "flux_vae_encoder: MASK_IMAGE has 10x10 pixels, expected 64x64 as SOURCE_IMAGE"
    assert with_flags(message, INPAINT) == "--mask-image has 10x10 pixels, expected 64x64 as FILE"
