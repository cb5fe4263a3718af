"""Container engines, docker and buildah: build an image and describe it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class ImageError(Exception):
    """An image cannot be built, or a check of it failed."""


@dataclass(frozen=True)
class Config:
    """The configuration of an image. environment: by name. healthcheck: the command, without `CMD`."""

    environment: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    healthcheck: tuple[str, ...]
    user: str
    folder: str
    labels: Mapping[str, str]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Config:
        """said: the configuration in Docker's image format."""
        return cls(
            environment=dict(entry.split("=", 1) for entry in said.get("Env") or ()),
            entrypoint=tuple(said.get("Entrypoint") or ()),
            command=tuple(said.get("Cmd") or ()),
            healthcheck=tuple((said.get("Healthcheck") or {}).get("Test") or ())[1:],
            user=said.get("User") or "0:0",
            folder=said.get("WorkingDir") or "/",
            labels=said.get("Labels") or {},
        )


@dataclass(frozen=True)
class Layer:
    made_by: str
    size_bytes: int


class ContainerEngine(Protocol):
    def build(self, context: Path, tag: str, arguments: Sequence[str]) -> None: ...
    def config(self, tag: str) -> Config: ...
    def layers(self, tag: str) -> list[Layer]:
        """Return the layers with files, the lowest first."""
        ...

    def output(self, tag: str, command: Sequence[str]) -> bytes:
        """Run a command in a new container. Returns its output."""
        ...


class Buildah:
    """buildah, which needs no daemon. Without runc and crun, it isolates containers only with chroot."""

    def __init__(self) -> None:
        if not any(map(shutil.which, ("runc", "crun"))):
            os.environ.setdefault("BUILDAH_ISOLATION", "chroot")

    def build(self, context: Path, tag: str, arguments: Sequence[str]) -> None:
        # The OCI format has no HEALTHCHECK.
        command = ["buildah", "bud", "--layers", "--format=docker", f"--tag={tag}", *arguments, str(context)]
        if subprocess.run(command).returncode:
            raise ImageError("buildah could not build the image")

    def config(self, tag: str) -> Config:
        return Config.of(self._inspect(tag)["Docker"]["config"])

    def layers(self, tag: str) -> list[Layer]:
        said = self._inspect(tag)
        made_by = [step["created_by"] for step in said["Docker"]["history"] if not step.get("empty_layer")]
        sizes = [layer["size"] for layer in json.loads(said["Manifest"])["layers"]]
        return [Layer(*layer) for layer in zip(made_by, sizes, strict=True)]

    def output(self, tag: str, command: Sequence[str]) -> bytes:
        name = output_of("buildah", "from", "--pull-never", tag).decode().strip()
        try:
            return output_of("buildah", "run", "--network=host", name, "--", *command)
        finally:
            output_of("buildah", "rm", name)

    def _inspect(self, tag: str) -> Any:
        return json.loads(output_of("buildah", "inspect", "--type=image", tag))


class Docker:
    def build(self, context: Path, tag: str, arguments: Sequence[str]) -> None:
        command = ["docker", "build", f"--tag={tag}", *arguments, str(context)]
        if subprocess.run(command, env={**os.environ, "DOCKER_BUILDKIT": "1"}).returncode:
            raise ImageError("docker could not build the image")

    def config(self, tag: str) -> Config:
        return Config.of(json.loads(output_of("docker", "image", "inspect", tag))[0]["Config"])

    def layers(self, tag: str) -> list[Layer]:
        lines = output_of("docker", "history", "--no-trunc", "--human=false", "--format={{json .}}", tag).splitlines()
        steps = [json.loads(line) for line in reversed(lines)]
        return [Layer(step["CreatedBy"], int(step["Size"])) for step in steps if int(step["Size"])]

    def output(self, tag: str, command: Sequence[str]) -> bytes:
        return output_of("docker", "run", "--rm", "--network=none", f"--entrypoint={command[0]}", tag, *command[1:])


def find_engine() -> Buildah | Docker:
    """Return buildah, or docker if buildah is not installed. Raises ImageError: neither works."""
    if shutil.which("buildah"):
        return Buildah()
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return Docker()
    raise ImageError("found neither buildah nor a docker with a running daemon; install one of them")


def output_of(*command: str) -> bytes:
    """Run a command. Returns its output. Raises ImageError: it failed."""
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise ImageError(f"{' '.join(command[:3])} ...: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
