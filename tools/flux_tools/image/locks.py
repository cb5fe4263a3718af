"""Locks the packages of the images in requirements/: versions and hashes, resolved from pyproject.toml by uv.

Each image has two locks. `torch-*.lock` contains torch and the packages that only its CUDA build needs. It has its own
layer, which other changes do not rebuild, and it selects the build of torch. All other packages are in `cpu.lock` or
`gpu.lock`. PyPI's torch is the CUDA build, which depends on gigabytes of NVIDIA's libraries. The CPU build is only on
PyTorch's own index and has a version that no other index has. Therefore the build of the CPU image must name that
index, and cannot install the CUDA build by mistake.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "requirements"

TORCH = "torch==2.13.0"
#: Hashes of PyTorch's CPU builds for Linux on x86-64, by version of Python. Source: PyTorch's index.
TORCH_CPU_HASHES = {
    "3.11": "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "3.12": "sha256:4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
}


@dataclass(frozen=True)
class Lock:
    """A lock file.

    pythons: supported versions, the oldest first. extras: extras of pyproject.toml. also: additional requirements.
    """

    name: str
    pythons: tuple[str, ...]
    extras: tuple[str, ...]
    also: tuple[str, ...] = ()


CPU = Lock("cpu", ("3.11",), ("server", "embedded", "gateway", "tracing"))
#: NVIDIA's image has Python 3.12. Its stand-in has Python 3.11 and a Triton that predates NumPy 2.
GPU = Lock("gpu", ("3.11", "3.12"), ("server", "gateway", "tracing"), ("numpy<2; python_version < '3.12'",))


def renew(upgrade: bool) -> None:
    """Write all locks. upgrade: use the newest versions; otherwise locked versions that still fit stay."""
    for lock in (CPU, GPU):
        pinned = [simplified(block, lock.pythons) for block in _blocks(_resolve(lock, upgrade))]
        blocks = [block for block in pinned if block]
        _write(lock.name, lock.pythons, [block for block in blocks if not _goes_with_torch(block)])
        if lock is GPU:
            _write("torch-gpu", lock.pythons, [block for block in blocks if _goes_with_torch(block)])
    hashes = [f"    --hash={digest}" for digest in TORCH_CPU_HASHES.values()]
    _write("torch-cpu", tuple(TORCH_CPU_HASHES), [" \\\n".join([f"{TORCH}+cpu", *hashes])])


def simplified(block: str, pythons: tuple[str, ...]) -> str:
    """Remove conditions on other platforms from a lock's block. Returns "" if it is only for other platforms."""
    first, *rest = block.splitlines()
    match = re.fullmatch(r"(\S+) ; (.*?)( \\)?", first)
    if match is None:
        return block
    requirement, marker, backslash = match[1], Marker(match[2]), match[3] or ""
    holds = [marker.evaluate(_platform(python)) for python in pythons]
    if not any(holds):
        return ""
    kept = "" if all(holds) else f" ; {marker}"
    return "\n".join([f"{requirement}{kept}{backslash}", *rest])


def _platform(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }


def _resolve(lock: Lock, upgrade: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        also = Path(folder, "also.in")
        also.write_text("\n".join([TORCH, *lock.also]))
        output = Path(folder, "output")
        known = [FOLDER / f"{lock.name}.lock", FOLDER / "torch-gpu.lock"]
        # uv keeps the versions that its output file already has.
        output.write_text("" if upgrade else "".join(path.read_text() for path in known if path.exists()))
        options = ["--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
        options += [f"--python-version={lock.pythons[0]}", *(f"--extra={extra}" for extra in lock.extras)]
        options.append(f"--output-file={output}")
        subprocess.run(["uv", "pip", "compile", *options, "pyproject.toml", also], cwd=ROOT, check=True)
        return output.read_text()


def _blocks(text: str) -> list[str]:
    """Return a block for each requirement: its line and the lines of its hashes."""
    return [block.rstrip() for block in re.split(r"^(?=\w)", text, flags=re.MULTILINE) if block.strip()]


def _goes_with_torch(block: str) -> bool:
    name = block.split("==")[0]
    return name in ("torch", "triton") or (name.startswith(("nvidia-", "cuda-")) and name != "nvidia-pytriton")


def _write(name: str, pythons: tuple[str, ...], blocks: list[str]) -> None:
    path = FOLDER / f"{name}.lock"
    versions = " and ".join(pythons)
    header = f"# Python {versions} on Linux, x86-64. Written by `scripts/build_image --lock`.\n"
    FOLDER.mkdir(exist_ok=True)
    path.write_text(header + "".join(f"{block}\n" for block in blocks))
    print(f"wrote {path.relative_to(ROOT)}: {len(blocks)} packages")
