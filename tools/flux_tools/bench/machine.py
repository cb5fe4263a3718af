"""Describes the machine of a measurement and the versions of the packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "fastapi",
    "uvicorn",
    "litserve",
    "nvidia-pytriton",
    "tritonclient",
    "numpy",
    "pillow",
)
#: CPU instructions that speed up matrix products.
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


def machine(threads: int) -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text()
    flags = next((line.split(":")[1].split() for line in info.splitlines() if line.startswith("flags")), [])
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "CPU cores": str(len(os.sched_getaffinity(0))),
        "CPU instructions": ", ".join(flag for flag in FLAGS if flag in flags) or "none of " + ", ".join(FLAGS),
        "memory": f"{round(int(memory.split()[1]) / 2**20)} GiB",
        "GPU": "none",
        "threads of each process": str(threads),
        "load average before the run": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"Triton Inference Server": "2.51 (in nvidia-pytriton)"}
