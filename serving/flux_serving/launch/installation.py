"""Finds Triton: `tritonserver` on PATH, as in NVIDIA's container, or the one in the `nvidia-pytriton` wheel."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from flux_contract.errors import CannotStart

#: Variable in which NVIDIA's images name their release.
VERSION_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
#: Release of the embedded server.
EMBEDDED_VERSION = "24.10"
#: The oldest glibc that the embedded server runs with.
EMBEDDED_GLIBC = (2, 35)


@dataclass(frozen=True)
class Installation:
    """A Triton on this machine.

    binary: the server. arguments, environment: what this installation needs in addition to the launcher's own.
    version: of its container, such as `26.08`; empty: unknown.
    """

    binary: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = ""


def find_installation(folder: Path) -> Installation:
    """Returns the Triton to run. folder: an empty folder, in which the embedded server's files are linked together.

    Raises CannotStart: Triton is not installed, or the embedded one cannot run here.
    """
    if (binary := shutil.which("tritonserver")) is not None:
        return Installation(Path(binary), version=os.environ.get(VERSION_VARIABLE, ""))
    return _embedded(folder)


def _embedded(folder: Path) -> Installation:
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(
            "Triton is not installed: tritonserver is not on PATH, and flux-triton's extra [embedded] is not installed"
        )
    package = Path(spec.submodule_search_locations[0])
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise CannotStart(f"the embedded Triton has no stub for Python {version}")
    name, glibc = platform.libc_ver()
    if name == "glibc" and tuple(map(int, glibc.split("."))) < EMBEDDED_GLIBC:
        needed = ".".join(map(str, EMBEDDED_GLIBC))
        raise CannotStart(f"the embedded Triton needs glibc {needed} or newer, this system has {glibc}")
    libraries = [package.parent / "nvidia_pytriton.libs", _libpython_folder()]
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for source in (*(server / "backends" / "python").iterdir(), stub):
        (backend / source.name).symlink_to(source)
    # The stub ignores PYTHONPATH and finds its packages through the first python3 on PATH.
    return Installation(
        binary=server / "bin" / "tritonserver",
        arguments=(f"--backend-directory={backend.parent}", f"--cache-directory={server / 'caches'}"),
        environment={
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        },
        version=EMBEDDED_VERSION,
    )


def _libpython_folder() -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    usual = f"libpython{version}.so.1.0"
    own = sysconfig.get_config_var("INSTSONAME") or ""
    names = [own, usual] if own.startswith("libpython") and ".so" in own else [usual]
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
    for name in names:
        for folder in folders:
            if folder and (Path(folder) / name).exists():
                return Path(folder)
    raise CannotStart(
        f"the embedded Triton needs the shared library {usual}; on Debian and Ubuntu: "
        f"apt-get install libpython{version}"
    )
