"""Options that `scripts/serve` rejects before anything starts; its last line is the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeAlias

import pytest

from flux_contract.errors import CannotStart
from flux_serving.launch import __main__ as launch
from flux_serving.launch.__main__ import read_options
from flux_serving.launch.processes import free_ports
from stand_in_triton import StandInTriton
from stub_checkpoints import stub_checkpoints

SaidOf: TypeAlias = Callable[..., str]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def triton(tmp_path: Path) -> StandInTriton:
    return StandInTriton(tmp_path / "bin")


@pytest.fixture
def said_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> SaidOf:
    """Returns the last line of a launcher that rejects these arguments."""

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["serve", *arguments])
        with pytest.raises(SystemExit) as ended:
            read_options()
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1].removeprefix("scripts/serve: error: ")

    return said


def refused(triton: StandInTriton, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Returns the exit status and the last line of a launcher that starts nothing."""
    checkpoints = stub_checkpoints(folder)
    http, grpc, metrics, rest = free_ports(4)
    variables = {
        "PATH": f"{triton.folder}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "FLUX_MODEL_PATH": str(checkpoints.base),
        "FLUX_REDUX_MODEL_PATH": str(checkpoints.redux),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flux_serving.launch", "--model-repository", ROOT / "model_repository"),
            *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", f"--gateway-port={rest}"),
            *arguments,
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("FLUX_")} | variables | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert triton.pids == [], "a Triton was started"
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "other"),
    [
        ("--http-port", "--gateway-port"),
        ("--http-port", "--grpc-port"),
        ("--grpc-port", "--metrics-port"),
        ("--metrics-port", "--gateway-port"),
    ],
)
def test_rejects_two_equal_ports(said_of: SaidOf, flag: str, other: str) -> None:
    assert said_of(f"{flag}=18123", f"{other}=18123") == f"{flag} and {other} are both 18123, expected different ports"


@pytest.mark.parametrize("seconds", ["-4", "0", "soon", "86401"])
def test_rejects_invalid_exit_timeout(said_of: SaidOf, seconds: str) -> None:
    said = said_of(f"--exit-timeout={seconds}")
    assert said == f"argument --exit-timeout: {seconds!r}, expected 1..86400 seconds"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PROT", "1", "FLUX_GATEWAY_PROT is unknown, expected one of: FLUX_GATEWAY_TRITON, "),
        ("CONCURRENCY", "-1", "FLUX_GATEWAY_CONCURRENCY='-1', expected an integer above 0"),
        ("KEYS_FILE", "/nope", "/nope: expected a list of keys"),
        ("CONTENT_FILTER", "nope", "content filter 'nope', expected one of: "),
    ],
)
def test_invalid_gateway_setting_prevents_start_of_triton(
    triton: StandInTriton, tmp_path: Path, variable: str, value: str, reason: str
) -> None:
    status, said = refused(triton, tmp_path, **{f"FLUX_GATEWAY_{variable}": value})
    assert status == 1
    assert said.startswith(f"scripts/serve: {reason}")


def test_unavailable_gateway_address_prevents_start_of_triton(triton: StandInTriton, tmp_path: Path) -> None:
    status, said = refused(triton, tmp_path, "--gateway-host=999.1.1.1")
    assert status == 1
    assert said.startswith("scripts/serve: cannot listen on port ")
    assert " of 999.1.1.1: " in said


def test_help_of_start_script_says_how_it_differs_from_serve() -> None:
    done = subprocess.run([ROOT / "scripts" / "start.sh", "--help"], capture_output=True, text=True, check=True)
    assert "Unlike scripts/serve, it uses GPUs 7 and 8 by default" in done.stdout
    assert "FLUX_REDUX_GPUS" in done.stdout


@pytest.mark.parametrize(("profile", "is_said"), [("cpu", True), ("gpu", False)])
def test_harmless_errors_of_triton_are_explained_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    profile: str,
    is_said: bool,
) -> None:
    def serving(*_: object) -> NoReturn:
        raise CannotStart("not started")

    checkpoints = stub_checkpoints(tmp_path)
    monkeypatch.setenv("FLUX_MODEL_PATH", str(checkpoints.base))
    monkeypatch.setenv("FLUX_REDUX_MODEL_PATH", str(checkpoints.redux))
    monkeypatch.setattr(launch, "Serving", serving)
    monkeypatch.setattr(launch, "end_on_signals", lambda: None)
    monkeypatch.setattr("sys.argv", ["scripts/serve", f"--profile={profile}"])
    assert launch.main() == 1
    said = capsys.readouterr().err
    assert said.endswith("scripts/serve: not started\n")
    assert ("Triton logs errors that are harmless: CudaDriverHelper" in said) == is_said
