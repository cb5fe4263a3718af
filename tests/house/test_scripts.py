"""Entry points in scripts/: help without a virtual environment, the checks of scripts/test, and skipped tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from flux_serving.launch.processes import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
#: Commands of scripts/test's shell functions, except shell builtins.
COMMANDS = ("bash", "cat", "cut", "dirname", "grep", "id", "sed")


@pytest.fixture(scope="module")
def without_environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the files that the scripts read before they create an environment."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("scripts", "contract", "serving", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("asset", "unseen", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.mark.parametrize(
    "command",
    ["test", "bench", "bench memory", "simulate", "train_demo", "measure_demo", "perf", "failover", "demo"],
)
def test_help_needs_no_virtual_environment(without_environments: Path, command: str) -> None:
    script, *arguments = command.split()
    done = subprocess.run(
        [without_environments / "scripts" / script, *arguments, "--help"],
        # A Python without the packages of the test environment.
        env={"PATH": os.environ["PATH"], "PYTHON_BASE": f"{sys.base_prefix}/bin/python3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"scripts/{script} " in done.stdout
    assert not list(without_environments.glob(".venv*"))


def demo(checkout: Path, *arguments: str, base: str = f"{sys.base_prefix}/bin/python3") -> subprocess.Popen[str]:
    """Start `scripts/demo` in a process group of its own, with this base interpreter."""
    return subprocess.Popen(
        [checkout / "scripts" / "demo", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHON_BASE": base},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A process in the background of a shell ignores SIGINT, and so would its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_demo_checks_its_ports_before_it_installs_anything(without_environments: Path) -> None:
    free, taken = free_ports(2)
    with socket.create_server(("127.0.0.1", taken)):
        started = demo(without_environments, "--serve", f"--http-port={free}", f"--gateway-port={taken}")
        _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    assert f"scripts/demo: cannot listen on port {taken} of 127.0.0.1: Address already in use" in said
    assert "(--gateway-port sets this port)" in said
    assert "--http-port" not in said
    assert not list(without_environments.glob(".venv*"))


def test_ctrl_c_during_installation_says_that_it_was_interrupted(without_environments: Path, tmp_path: Path) -> None:
    base = tmp_path / "python"
    base.write_text(f'#!/bin/sh\n[ "$1 $2" = "-m venv" ] && exec sleep 60\nexec {sys.base_prefix}/bin/python3 "$@"\n')
    base.chmod(0o755)
    started = demo(without_environments, base=str(base))
    assert started.stderr is not None
    assert started.stderr.readline().startswith("creating ")
    time.sleep(0.2)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=30)
    assert said == "scripts/demo: interrupted while installing into .venv; run it again to start over\n"
    assert started.returncode == 130


def test_lists_the_tests_that_missing_programs_skip(tmp_path: Path) -> None:
    for name in COMMANDS:
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [ROOT / "scripts" / "test", "tools"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "scripts/test: tests of the web page will be skipped; apt-get install chromium" in done.stdout.splitlines()
    assert "apt-get install prometheus" in done.stdout


def test_scripts_test_rejects_an_unknown_argument() -> None:
    done = subprocess.run([ROOT / "scripts" / "test", "unti"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "scripts/test: unti, expected fast, unit or tools\n")


#: A fake Python that records its arguments, and fails if they name the module in `failing`.
_RECORDING_PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in "-m $FAILING"*) exit 1 ;; esac
"""


@pytest.fixture
def with_recording_python(without_environments: Path, tmp_path: Path) -> Path:
    """Return a checkout with the assets' checksums and a `.venv-test` that records its calls in the file `calls`."""
    checkout = shutil.copytree(without_environments, tmp_path / "checkout")
    asset = checkout / "tools/flux_tools/demo/asset"
    asset.mkdir()
    for name in ("demo", "controlnet", "greyscale"):
        (asset / f"{name}.sha256").write_text(f"{name}\n")
    environment = checkout / ".venv-test"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(_RECORDING_PYTHON)
    python.chmod(0o755)
    sums = subprocess.run(
        "cat pyproject.toml tools/pyproject.toml | cksum", shell=True, cwd=checkout, capture_output=True, text=True
    )
    (environment / "made-from").write_text(f"torch==1 [server,embedded,gateway,test] {sums.stdout}")
    return checkout


def fast(checkout: Path, failing: str = "nothing") -> list[str]:
    """Return the calls of Python by `scripts/test fast`."""
    calls = checkout.parent / "calls"
    done = subprocess.run(
        [checkout / "scripts" / "test", "fast"],
        env={"PATH": os.environ["PATH"], "TORCH": "torch==1", "CALLS": str(calls), "FAILING": failing},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (failing != "nothing"), done.stderr
    return calls.read_text().splitlines()


@pytest.mark.parametrize("failing", ["nothing", "ruff", "mypy", "pytest"])
def test_fast_runs_each_check_once_in_one_environment(with_recording_python: Path, failing: str) -> None:
    first, *others = fast(with_recording_python, failing)
    assert first == "-m flux_tools.demo --expand-only"
    tests = "-m pytest -q -m not slow"
    unit_tests = f"{tests} tests/unit --ignore-glob=*/test_client_*"
    other_tests = f"{tests} tests/house tests/unit/test_client_*.py"
    checks = ["-m ruff check .", "-m ruff format --check .", "-m mypy", "scripts/render --check", other_tests]
    assert others.count(unit_tests) == 1
    # A failing check skips the checks after it, but not the unit tests in the other process.
    assert [call for call in others if call != unit_tests] == checks[: {"ruff": 1, "mypy": 3}.get(failing)]
    assert [folder.name for folder in with_recording_python.glob(".venv*")] == [".venv-test"]


def test_fast_keeps_a_current_demo_checkpoint(with_recording_python: Path) -> None:
    folder = with_recording_python / "checkpoints/demo"
    folder.mkdir(parents=True)
    (folder / "expanded-from.sha256").write_text("demo\ncontrolnet\ngreyscale")
    assert "-m flux_tools.demo --expand-only" not in fast(with_recording_python)


@pytest.mark.parametrize(
    "skipped",
    [
        "import pytest\n\ndef test():\n    pytest.skip('x')\n",
        "import pytest\npytest.skip('x', allow_module_level=True)\n",
    ],
    ids=["a test", "a module"],
)
@pytest.mark.parametrize(("ci", "status"), [("true", (1, 2)), ("", (0, 5))])
def test_skipped_test_fails_only_in_ci(tmp_path: Path, skipped: str, ci: str, status: tuple[int, ...]) -> None:
    (tmp_path / "test_skipped.py").write_text(skipped)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "skips", "test_skipped.py"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in status, done.stdout
    assert ("counts as failed in CI: " in done.stdout) == (ci == "true")
