"""Container images: locked packages, and the properties that docs/images.md promises."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flux_tools.image.checks import png_size
from flux_tools.image.engines import ImageError
from flux_tools.image.locks import simplified

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "Dockerfile"
STAND_IN = ROOT / "tools" / "flux_tools" / "image" / "stand_in.Dockerfile"
LABELS = {"title", "description", "licenses", "version", "revision", "created", "base.name"}
#: For each image: its Python version, its locks, and its extras.
IMAGES = {
    "cpu": ("3.11", ("cpu", "torch-cpu"), ("server", "embedded", "gateway", "tracing")),
    "gpu": ("3.12", ("gpu", "torch-gpu"), ("server", "gateway", "tracing")),
    "gpu on the stand-in": ("3.11", ("gpu", "torch-cpu"), ("server", "gateway", "tracing")),
}


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Return the name and arguments of each instruction, with continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def stage(name: str) -> list[tuple[str, str]]:
    """Return the instructions of one stage, without its FROM."""
    found: list[tuple[str, str]] = []
    inside = False
    for instruction, rest in instructions(DOCKERFILE):
        if instruction == "FROM":
            inside = rest.endswith(f" AS {name}")
        elif inside:
            found.append((instruction, rest))
    return found


def platform(python: str) -> dict[str, str]:
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}
    return {**default_environment(), **linux, "python_version": python, "python_full_version": f"{python}.0"}


def locked(name: str, python: str) -> dict[str, str]:
    """Return the versions by package. Checks that every line is pinned and has a hash."""
    versions = {}
    for block in re.split(r"^(?=\w)", (ROOT / "requirements" / f"{name}.lock").read_text(), flags=re.MULTILINE)[1:]:
        first, *hashes = block.rstrip().split(" \\\n")
        assert hashes, f"{name}.lock: {first} has no hash"
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}", each) for each in hashes), f"{name}.lock: {first}"
        requirement = Requirement(first)
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{name}.lock: {first}"
        if requirement.marker is None or requirement.marker.evaluate(platform(python)):
            assert canonicalize_name(requirement.name) not in versions, f"{name}.lock: {first} is listed twice"
            versions[canonicalize_name(requirement.name)] = pin.version
    return versions


@pytest.mark.parametrize("image", IMAGES)
def test_every_runtime_dependency_is_locked_to_an_allowed_version(image: str) -> None:
    python, locks, extras = IMAGES[image]
    versions = {name: version for lock in locks for name, version in locked(lock, python).items()}
    wanted = [Requirement(text) for text in importlib.metadata.requires("flux-triton") or ()]
    environments = [{**platform(python), "extra": extra} for extra in ("", *extras)]
    needed = [each for each in wanted if each.marker is None or any(map(each.marker.evaluate, environments))]
    assert len(needed) > 10
    for requirement in needed:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{image}: {requirement} is not {version}"


def test_the_locks_of_an_image_do_not_overlap() -> None:
    for python, locks, _ in IMAGES.values():
        first, second = (locked(lock, python) for lock in locks)
        assert not first.keys() & second.keys()


def test_locked_torch_is_the_version_that_the_scripts_install() -> None:
    match = re.search(r"TORCH:-torch==([\d.]+)", (ROOT / "scripts" / "environment.sh").read_text())
    assert match is not None
    assert locked("torch-gpu", "3.12")["torch"] == match[1]
    assert locked("torch-cpu", "3.11")["torch"] == f"{match[1]}+cpu"


def test_only_torch_depends_on_cuda_packages() -> None:
    for name in ("cpu", "gpu"):
        brings = [each for each in locked(name, "3.11") if each.startswith(("nvidia-", "cuda-", "triton"))]
        assert set(brings) <= {"nvidia-pytriton", "tritonclient"}


def test_requirements_name_no_index() -> None:
    for file in (ROOT / "requirements").iterdir():
        assert not re.search(r"://|^-", file.read_text(), re.MULTILINE), f"{file.name} names an index"


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, STAND_IN], ids=lambda path: path.name)
def test_hadolint_accepts_the_dockerfile(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint is not None, "hadolint is missing: it comes with the extra [test]"
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_image_runs_without_root_and_has_labels(target: str) -> None:
    final = stage(target)
    by_name = dict(final)
    assert by_name["USER"] == "1000:1000"
    assert by_name["HEALTHCHECK"].endswith('CMD ["python3", "-m", "flux_serving.launch.probe"]')
    labels = dict(each.split("=", 1) for each in shlex.split(by_name["LABEL"]))
    assert labels.keys() == {f"org.opencontainers.image.{name}" for name in LABELS}
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert [f"VERSION={version[0]}"] == [rest for name, rest in final if rest.startswith("VERSION=")]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_image_exposes_only_the_gateway(target: str) -> None:
    by_name = dict(stage(target))
    assert by_name["EXPOSE"] == "12411"
    entrypoint = json.loads(by_name["ENTRYPOINT"])
    if target == "cpu":
        assert entrypoint[-2:] == ["--gateway-host=0.0.0.0", "--gateway-port=12411"]
    assert not [argument for argument in entrypoint if "triton-host" in argument or "vulnerable" in argument]


def start_script(folder: Path, **variables: str) -> list[str]:
    """Return the arguments that start.sh passes to `serve`."""
    shutil.copy(ROOT / "scripts" / "start.sh", folder)
    (folder / "serve").write_text('#!/bin/sh\necho "$@"\n')
    (folder / "serve").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run([folder / "start.sh"], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def value(given: list[str], option: str) -> str:
    return given[given.index(option) + 1]


def test_start_script_opens_the_gateway_and_keeps_triton_on_loopback(tmp_path: Path) -> None:
    usual = start_script(tmp_path)
    assert value(usual, "--gateway-host") == "0.0.0.0"
    assert value(usual, "--gateway-port") == "12411"
    assert value(usual, "--triton-host") == "127.0.0.1"
    named = start_script(tmp_path, HOST="192.0.2.1", PORT="8080", TRITON_HOST="192.0.2.2")
    assert value(named, "--gateway-host") == "192.0.2.1"
    assert value(named, "--gateway-port") == "8080"
    assert value(named, "--triton-host") == "192.0.2.2"


def test_start_script_reads_the_gpus_from_a_variable(tmp_path: Path) -> None:
    for given, gpus in (({}, "7,8"), ({"FLUX_REDUX_GPUS": ""}, "7,8"), ({"FLUX_REDUX_GPUS": "0,1,2,3"}, "0,1,2,3")):
        arguments = start_script(tmp_path, **given)
        assert (value(arguments, "--profile"), value(arguments, "--gpus")) == ("gpu", gpus)
    without = start_script(tmp_path, FLUX_REDUX_GPUS="cpu")
    assert value(without, "--profile") == "cpu"
    assert "--gpus" not in without


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_final_stage_only_copies_from_build_stages(target: str) -> None:
    """The stage contains no build tools and no cache of pip."""
    final = stage(target)
    assert all(rest.startswith("--from=") for name, rest in final if name == "COPY")
    assert not any("pip" in rest or "apt" in rest for name, rest in final if name == "RUN")


def test_pip_installs_only_locked_packages() -> None:
    runs = [rest for name, rest in instructions(DOCKERFILE) if name == "RUN" and " install " in rest]
    assert len(runs) == 6
    for run in runs:
        assert "--no-deps" in run
        assert "--require-hashes" in run or "--no-build-isolation" in run


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, STAND_IN], ids=lambda path: path.name)
def test_dockerfile_downloads_no_urls(dockerfile: Path) -> None:
    assert "ADD" not in {name for name, _ in instructions(dockerfile)}
    assert "://" not in dockerfile.read_text()


def test_build_context_has_exactly_the_copied_files() -> None:
    copied = {
        source.split("/")[0] if "$" in source or source.endswith(".lock") else source
        for name, rest in instructions(DOCKERFILE)
        if name == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    }
    everything, *patterns = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert everything == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == copied
    assert {pattern for pattern in patterns if not pattern.startswith("!")} == {"**/__pycache__", "**/*.egg-info"}
    assert all((ROOT / source).exists() for source in copied)


def test_lock_omits_entries_of_other_platforms() -> None:
    assert simplified("a==1 ; sys_platform == 'win32' \\\n    --hash=sha256:0", ("3.11", "3.12")) == ""
    assert simplified("a==1 ; sys_platform == 'linux' \\\n    --hash=x", ("3.11",)) == "a==1 \\\n    --hash=x"
    kept = 'a==1 ; python_full_version < "3.12" \\\n    --hash=x'
    assert simplified(kept, ("3.11", "3.12")) == kept
    assert simplified(kept, ("3.12",)) == ""
    assert simplified("a==1 \\\n    --hash=x", ("3.11",)) == "a==1 \\\n    --hash=x"


def test_check_accepts_only_a_png() -> None:
    assert png_size((ROOT / "docs" / "pictures" / "scaling.png").read_bytes())[0] > 0
    for data in (b"", b"\xff\xd8\xff\xe0 a JPEG", b'{"error": "no image"}'):
        with pytest.raises(ImageError):
            png_size(data)
