"""Checks of a container image: it serves without root rights on a read-only root, and stops on SIGTERM."""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from flux_tools.image.container import Container, running
from flux_tools.image.engines import ContainerEngine, ImageError

ROOT = Path(__file__).resolve().parents[3]
IMAGE = ROOT / "tools" / "flux_tools" / "demo" / "unseen" / "red-apple.png"
MANIFEST = ROOT / "deploy" / "base" / "triton" / "deployment.yaml"
#: Width and height of the generated image in pixels.
SIDE = 64

_WAIT = """
import time, urllib.request
for _ in range(600):
    try:
        urllib.request.urlopen("http://127.0.0.1:8000/v2/health/ready", timeout=5)
        break
    except OSError:
        time.sleep(0.5)
else:
    raise SystemExit("Triton is not ready")
"""
#: Checks the user and the writable folders, for the image's user and for root.
_CONFINED = """
import errno, os, tempfile
if os.getuid() == 0:
    expected = (errno.EROFS,)
    assert not any(files for _, _, files in os.walk("/root/.cache")), "a cache is left in /root"
else:
    expected = (errno.EROFS, errno.EACCES)
    assert (os.getuid(), os.getgid()) == (1000, 1000), f"user {os.getuid()}:{os.getgid()}"
    tempfile.TemporaryFile(dir="/tmp").close()
    tempfile.TemporaryFile(dir="/dev/shm").close()
for folder in ("/", "/etc", "/opt/flux-triton", "/opt/venv", "/opt/torch", "/var/tmp"):
    try:
        open(f"{folder}/written", "w")
    except OSError as error:
        assert error.errno in expected, f"{folder}: {error}"
    else:
        raise SystemExit(f"{folder} can be written to")
"""
_TOOLS = """
import shutil
print(*filter(shutil.which, ("cc", "gcc", "g++", "c++", "clang", "ld", "make", "cmake", "cargo", "git", "uv")))
"""
_ASK = """
import sys
from flux_client import FluxClient
with FluxClient("127.0.0.1:8001") as client:
    size = int(sys.argv[1])
    (made,) = client.redux(sys.stdin.buffer.read(), num_inference_steps=4, seed=1, height=size, width=size)
sys.stdout.buffer.write(made.data)
"""
#: Checks that the gateway listens on all addresses, and Triton only on 127.0.0.1.
_ADDRESSES = """
import json, socket, time, urllib.request
for _ in range(120):
    try:
        with urllib.request.urlopen("http://127.0.0.2:12411/health", timeout=5) as answer:
            print(json.load(answer))
        break
    except OSError:
        time.sleep(0.5)
else:
    raise SystemExit("the gateway is not ready")
for port in (8000, 8001, 8002):
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)) != 0, f"Triton's port {port} is open to other machines"
"""


def check(engine: ContainerEngine, tag: str, target: str, checkpoints: Path, image: Path) -> None:
    """Check a container image.

    checkpoints: folder of the demo checkpoint, a volume of the GPU image. image: path to write the generated image to.
    Raises ImageError: a check failed.
    """
    if target == "cpu":
        _check(engine, tag, {}, None, image)
        return
    with tempfile.TemporaryDirectory() as folder:
        # diffusers saves weights that only their owner can read, and the image's user is not their owner.
        shutil.copytree(checkpoints, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
        Path(folder).chmod(0o755)
        _check(engine, tag, _FOR_GPU_IMAGE, Path(folder), image)


def _check(engine: ContainerEngine, tag: str, variables: Mapping[str, str], models: Path | None, image: Path) -> None:
    with running(engine, tag, (), variables, models) as container:
        _say_ready(container, "the image's own command")
        container.execute(["python3", "-c", _CONFINED])
        container.execute(["python3", "-c", _CONFINED], user="0:0")
        print("- runs as user 1000; only /tmp and /dev/shm are writable, for root too")
        tools = container.execute(["python3", "-c", _TOOLS]).decode().split()
        if tools and models is None:
            raise ImageError(f"the image contains build tools: {' '.join(tools)}")
        print(f"- build tools: {' '.join(tools) + ' (from the base image)' if tools else 'none'}")
        started = time.monotonic()
        made = container.execute(["python3", "-c", _ASK, str(SIDE)], given=IMAGE.read_bytes())
        if png_size(made) != (SIDE, SIDE):
            raise ImageError(f"the generated image has the size {png_size(made)}, expected {SIDE}x{SIDE}")
        image.write_bytes(made)
        print(f"- `flux_client` received a PNG of {SIDE}x{SIDE} after {time.monotonic() - started:.1f} s: {image}")
        healthcheck = engine.config(tag).healthcheck
        container.execute(healthcheck)
        print(f"- HEALTHCHECK succeeded: {' '.join(healthcheck)}")
        health = container.execute(["python3", "-c", _ADDRESSES]).decode().strip()
        print(f"- the gateway reports {health}; Triton listens only on loopback")
        _stop(container)
    with running(engine, tag, manifest_command(), variables, models) as container:
        _say_ready(container, f"`{' '.join(manifest_command())}`")
        _stop(container)


#: Settings for the demo checkpoint without a GPU.
_FOR_GPU_IMAGE = {
    "FLUX_MODEL_PATH": "/models/flux-base",
    "FLUX_REDUX_MODEL_PATH": "/models/flux-redux",
    "FLUX_REDUX_GPUS": "cpu",
}


def manifest_command() -> Sequence[str]:
    """Return the command of deploy/, with the changes of its overlay for CPUs."""
    (container,) = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]["containers"]
    command = [*container["command"], *container["args"]]
    command[command.index("--profile=k8s")] = "--profile=cpu"
    command[command.index("--triton-host=0.0.0.0")] = "--gateway-host=0.0.0.0"
    return [*command, "--gateway-port=12411"]


def png_size(data: bytes) -> tuple[int, int]:
    """Return the width and the height. Raises ImageError: the data is not a PNG."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise ImageError(f"expected a PNG, got {data[:16]!r}")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _say_ready(container: Container, command: str) -> None:
    started = time.monotonic()
    container.execute(["python3", "-c", _WAIT])
    print(f"- {command}: ready after {time.monotonic() - started:.0f} s")


def _stop(container: Container) -> None:
    started = time.monotonic()
    if status := container.stop():
        raise ImageError(f"exit status {status} after SIGTERM")
    print(f"- exit status 0, {time.monotonic() - started:.1f} s after SIGTERM")
