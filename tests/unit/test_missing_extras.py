"""An installation without the packages of the gateway or of the server names the extras to install."""

from __future__ import annotations

import subprocess
import sys

import pytest


def last_line_without(package: str, call: str) -> str:
    """Run Python code in which a package cannot be imported. Returns the last line of stderr."""
    code = f"import sys; sys.modules[{package!r}] = None; {call}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1, ended.stderr
    return ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("package", ["uvicorn", "fastapi", "prometheus_client"])
def test_the_gateway_without_its_packages_names_its_extra(package: str) -> None:
    line = last_line_without(package, "from flux_gateway.__main__ import main; sys.exit(main())")
    assert line.startswith("flux-gateway: ")
    assert package in line
    assert line.endswith('; run: pip install "flux-triton[gateway]"')


def test_the_launcher_without_its_packages_names_its_extras() -> None:
    line = last_line_without("psutil", "import flux_serving.launch.__main__")
    assert "psutil" in line
    assert line.endswith('; run: pip install "flux-triton[server,embedded,gateway]"')
