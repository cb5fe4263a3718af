"""The command `flux-gateway`: its help and its version."""

from __future__ import annotations

from dataclasses import fields
from importlib import metadata

import pytest

from flux_gateway.command import make_parser
from flux_gateway.settings import Settings


def test_help_lists_every_setting_with_its_default() -> None:
    text = make_parser().format_help()
    defaults = {
        "TRITON": "localhost:8001",
        "PORT": "12411",
        "TIMEOUT_S": "600",
        "BODY_BYTES": "67108864",
        "METRICS_OPEN": "false",
        "KEYS_FILE": "none",
    }
    for name, default in defaults.items():
        assert f"  FLUX_GATEWAY_{name} (default: {default})\n" in text
    assert [each.name for each in fields(Settings) if f"  FLUX_GATEWAY_{each.name.upper()} (" not in text] == []
    assert max(map(len, text.splitlines())) <= 80


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        make_parser().parse_args(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"flux-gateway {metadata.version('flux-triton')}\n"
