"""Build a container image from the committed files, print the sizes of its layers, write its SBOM, and check it."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from flux_tools.documents import table
from flux_tools.image.checks import check
from flux_tools.image.engines import ContainerEngine, ImageError, Layer, find_engine, output_of
from flux_tools.image.locks import renew
from flux_tools.image.sbom import write_sbom

ROOT = Path(__file__).resolve().parents[3]
OUTPUT = ROOT / "out"
STAND_IN = "flux-triton-base:stand-in"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/build_image",
        description=__doc__,
        epilog="Arguments after -- are passed to the engine's build command.",
    )
    parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu", help="image to build; default: cpu")
    parser.add_argument("--tag", help="tag of the image; default: flux-triton:cpu or flux-triton:gpu")
    parser.add_argument("--torch-index", metavar="URL", help="PyTorch's index of CPU builds, for the CPU image")
    parser.add_argument(
        "--stand-in",
        action="store_true",
        help="build the GPU image on the embedded Triton and torch's CPU build, to check it without NVIDIA's image",
    )
    parser.add_argument("--check", action="store_true", help="start the image, request an image, and stop it")
    parser.add_argument("--lock", action="store_true", help="only update requirements/*.lock")
    parser.add_argument("--upgrade", action="store_true", help="with --lock: update to the newest versions")
    parser.add_argument("engine_arguments", nargs="*", metavar="-- ...")
    options = parser.parse_args()
    if options.upgrade and not options.lock:
        parser.error("--upgrade requires --lock")
    if options.stand_in and options.target != "gpu":
        parser.error("--stand-in requires --target gpu")
    return options


def build(engine: ContainerEngine, options: argparse.Namespace, tag: str) -> None:
    """Build the image from the committed files."""
    if output_of("git", "-C", str(ROOT), "status", "--porcelain").strip():
        print("scripts/build_image: warning: the image does not contain uncommitted changes", file=sys.stderr)
    revision, created = output_of("git", "-C", str(ROOT), "log", "-1", "--format=%H %cI").decode().split()
    arguments = [*options.engine_arguments]
    if options.torch_index:
        arguments.append(f"--build-arg=PIP_EXTRA_INDEX_URL={options.torch_index}")
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        archive = output_of("git", "-C", str(ROOT), "-c", "tar.umask=0022", "archive", revision)
        subprocess.run(["tar", "--extract", f"--directory={context}"], input=archive, check=True)
        if options.stand_in:
            engine.build(
                context, STAND_IN, [*arguments, f"--file={context}/tools/flux_tools/image/stand_in.Dockerfile"]
            )
            arguments += [f"--build-arg=GPU_BASE={STAND_IN}", "--build-arg=TORCH_LOCK=torch-cpu.lock"]
        (version,) = re.findall(r'^version = "(.+)"$', (context / "pyproject.toml").read_text(), re.MULTILINE)
        for name, value in {"VERSION": version, "REVISION": revision, "CREATED": created}.items():
            arguments.append(f"--build-arg={name}={value}")
        engine.build(context, tag, [*arguments, f"--target={options.target}"])


def sizes(layers: list[Layer]) -> str:
    """Return the sizes of the layers as a Markdown table."""
    rows = [(f"`{_shortened(layer.made_by)}`", f"{layer.size_bytes / 1e6:,.1f} MB") for layer in layers]
    total = sum(layer.size_bytes for layer in layers)
    return table(["layer", "size"], [*rows, ("all", f"{total / 1e6:,.1f} MB")])


def _shortened(made_by: str) -> str:
    """Return the Dockerfile's instruction without the engine's additions, in at most 100 characters."""
    words = " ".join(made_by.replace("|", "\\|").replace("`", " ").split())
    words = re.sub(r"^/bin/sh -c |#\(nop\) |# buildkit$", "", words)
    words = re.sub(r"\b(dir|file|multi):[0-9a-f]{64} in ", "", words).strip()
    return words if len(words) <= 100 else f"{words[:97]}..."


def main() -> int:
    options = read_options()
    tag = options.tag or f"flux-triton:{options.target}"
    name = tag.rsplit("/", 1)[-1].replace(":", "-")
    try:
        if options.lock:
            renew(options.upgrade)
            return 0
        checkpoints = ROOT / "checkpoints" / "demo"
        if options.check and options.target == "gpu" and not checkpoints.exists():
            raise ImageError(
                "--check of the GPU image requires the demo checkpoint; scripts/demo --expand-only creates it"
            )
        engine = find_engine()
        build(engine, options, tag)
        print(f"\n{tag}, unpacked:\n\n{sizes(engine.layers(tag))}\n")
        sbom = OUTPUT / f"{name}.cdx.json"
        print(f"{write_sbom(engine, tag, sbom)} components: {sbom}", flush=True)
        if options.check:
            check(engine, tag, options.target, checkpoints, OUTPUT / f"{name}.png")
    except ImageError as error:
        print(f"scripts/build_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
