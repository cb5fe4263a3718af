"""Triton's arguments and environment, recorded by a stand-in `tritonserver`."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from flux_contract.errors import CannotStart
from flux_contract.models import FLUX_BASE, MODELS
from flux_serving.launch.draining import in_work
from flux_serving.launch.processes import free_ports
from flux_serving.launch.repository import assemble_repository
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.settings import Checkpoints
from stub_checkpoints import stub_checkpoints

ROOT = Path(__file__).resolve().parent.parent.parent
REPOSITORY = ROOT / "model_repository"


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return stub_checkpoints(tmp_path)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the stand-in writes: its arguments, the checkpoints, flux_base's config and all models."""
    written, binary = tmp_path / "told", tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.write_text(
        "#!/bin/sh\n"
        f'for a in "$@"; do echo "$a"; case "$a" in --model-repository=*) r=${{a#*=}};; esac; done >{written}.part\n'
        f'echo "$FLUX_MODEL_PATH $FLUX_REDUX_MODEL_PATH" >>{written}.part\n'
        f'cat "$r/flux_base/config.pbtxt" >>{written}.part\n'
        f'for m in "$r"/*/config.pbtxt; do echo "model $m"; done >>{written}.part\n'
        f"mv {written}.part {written}\n"
    )
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(binary.parent), prepend=":")
    return written


def ports() -> dict[str, int]:
    return dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(), strict=True))


def start(checkpoints: Checkpoints, told: Path, **options: object) -> list[str]:
    options = {**ports(), **options}
    with TritonServer(ServerOptions(REPOSITORY, checkpoints, **options)) as server:  # type: ignore[arg-type]
        server.wait()
    return told.read_text().splitlines()


ALL_MODELS = {folder.name for folder in REPOSITORY.iterdir()}


def listed(told: Path) -> set[str]:
    """Returns the names of the models that the stand-in would load."""
    lines = told.read_text().splitlines()
    return {Path(line.removeprefix("model ")).parent.name for line in lines if line.startswith("model ")}


def test_cpu_profile_uses_triton_model_config_name(checkpoints: Checkpoints, told: Path) -> None:
    lines = start(checkpoints, told, profile="cpu")
    assert "--model-config-name=cpu" in lines
    assert "--disable-auto-complete-config" in lines
    assert f"{checkpoints.base} {checkpoints.redux}" in lines


def test_gpus_7_and_8_use_committed_repository(checkpoints: Checkpoints, told: Path) -> None:
    lines = start(checkpoints, told, profile="gpu")
    assert not [line for line in lines if line.startswith("--model-config-name")]
    assert "instance_group [ { kind: KIND_GPU, gpus: [7, 8], count: 1 } ]" in lines


def test_other_gpus_use_rendered_repository(checkpoints: Checkpoints, told: Path) -> None:
    before = (REPOSITORY / "flux_base" / "config.pbtxt").read_text()
    lines = start(checkpoints, told, profile="gpu", gpus=(0, 1, 2, 3))
    assert "instance_group [ { kind: KIND_GPU, gpus: [0, 1, 2, 3], count: 1 } ]" in lines
    assert (REPOSITORY / "flux_base" / "config.pbtxt").read_text() == before


def test_several_cpu_instances_use_rendered_repository(checkpoints: Checkpoints, told: Path) -> None:
    lines = start(checkpoints, told, cpu_instances=2)
    assert "instance_group [ { kind: KIND_CPU, count: 2 } ]" in lines
    assert not [line for line in lines if line.startswith("--model-config-name")]
    assert listed(told) == ALL_MODELS - {"flux_text2img", "flux_canny"}
    assert "instance_group [ { kind: KIND_CPU, count: 1 } ]" in (
        (REPOSITORY / "flux_base" / "configs" / "cpu.pbtxt").read_text().splitlines()
    )


def test_cpu_instances_apply_only_to_flux_base(tmp_path: Path) -> None:
    assert assemble_repository(tmp_path / "models", REPOSITORY, "cpu", (7, 8), (), cpu_instances=3) == []
    for model in MODELS:
        count = 3 if model is FLUX_BASE else model.cpu_instances
        config = (tmp_path / "models" / model.name / "config.pbtxt").read_text()
        assert f"instance_group [ {{ kind: KIND_CPU, count: {count} }} ]" in config


def test_repository_omits_ensembles_of_unserved_modes(checkpoints: Checkpoints, told: Path, tmp_path: Path) -> None:
    """Returns the stand-in's list of the models that it would load. The committed repository stays unchanged."""
    for gpus in ((7, 8), (0,)):
        start(checkpoints, told, profile="gpu", gpus=gpus)
        assert listed(told) == ALL_MODELS - {"flux_text2img", "flux_canny"}
    start(stub_checkpoints(tmp_path / "text", text=True), told)
    assert listed(told) == ALL_MODELS - {"flux_canny"}
    assert {folder.name for folder in REPOSITORY.iterdir()} == ALL_MODELS


def test_triton_listens_on_loopback_with_restricted_apis_by_default(checkpoints: Checkpoints, told: Path) -> None:
    lines = start(checkpoints, told)
    assert [line for line in lines if "-address=" in line] == [
        f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")
    ]
    rule = "shared-memory,model-repository,trace,logging:flux-triton-key="
    assert [line for line in lines if line.startswith(f"--http-restricted-api={rule}")]
    assert [line for line in lines if line.startswith(f"--grpc-restricted-protocol={rule}")]
    lines = start(checkpoints, told, allowed_apis=("shared-memory",), api_key="a-key-of-the-operators")
    assert "--http-restricted-api=model-repository,trace,logging:flux-triton-key=a-key-of-the-operators" in lines


def test_triton_of_unknown_version_is_exposed_only_with_flag(
    checkpoints: Checkpoints, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TRITON_SERVER_VERSION", raising=False)
    with pytest.raises(CannotStart, match=r"--triton-host 0\.0\.0\.0 .* this Triton's version is unknown"):
        start(checkpoints, told, host="0.0.0.0")
    assert not told.exists()
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "24.10")
    with pytest.raises(CannotStart, match=r"this Triton is from container 24\.10"):
        start(checkpoints, told, host="0.0.0.0")
    assert "--http-address=0.0.0.0" in start(checkpoints, told, host="0.0.0.0", expose_vulnerable=True)
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "26.08")
    assert "--http-address=0.0.0.0" in start(checkpoints, told, host="0.0.0.0")


def test_reports_server_that_ends_before_it_is_ready(checkpoints: Checkpoints, told: Path) -> None:
    options = ServerOptions(REPOSITORY, checkpoints, **ports())
    with TritonServer(options) as server, pytest.raises(CannotStart, match="ended with exit status 0 before"):
        server.wait_until_ready(30)


def test_incomplete_checkpoint_prevents_start(checkpoints: Checkpoints, told: Path) -> None:
    shutil.rmtree(checkpoints.redux / "image_embedder")
    with pytest.raises(CannotStart, match="has no image_embedder"):
        start(checkpoints, told)
    assert not told.exists()


def test_port_in_use_prevents_start_and_is_named(checkpoints: Checkpoints, told: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=f"cannot listen on port {port} of 127.0.0.1"):
            start(checkpoints, told, grpc_port=port)
    assert not told.exists()


def test_unwritable_temporary_folder_prevents_start(
    checkpoints: Checkpoints, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only root without a writable /tmp, or a full disk: Python finds no usable folder."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/no/such"])
    with pytest.raises(CannotStart, match="needs a writable /tmp"):
        start(checkpoints, told)
    assert not told.exists()


def test_triton_gets_repository_path_without_spaces(checkpoints: Checkpoints, told: Path, tmp_path: Path) -> None:
    """Triton 2.51 splits the path at the space, so that the model's process never starts."""
    spaced = tmp_path / "a folder" / "model_repository"
    shutil.copytree(REPOSITORY, spaced)
    with TritonServer(ServerOptions(spaced, checkpoints, **ports())) as server:
        server.wait()
    (line,) = [line for line in told.read_text().splitlines() if line.startswith("--model-repository=")]
    assert " " not in line


def test_server_is_idle_without_pending_requests_and_jobs() -> None:
    scrape = """# HELP flux_jobs_waiting Images that have taken no step yet
flux_jobs_waiting{model="flux_base",instance="flux_base_0_0"} 2
flux_jobs_running{model="flux_base",instance="flux_base_0_0"} 1
flux_jobs_total{model="flux_base",outcome="done"} 99
nv_inference_pending_request_count{model="flux_redux",version="1"} 4
"""
    assert in_work(scrape) == 7
    assert in_work(scrape.replace(" 2\n", " 0\n").replace(" 1\n", " 0\n").replace(" 4\n", " 0\n")) == 0
