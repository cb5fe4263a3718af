"""The command `flux-client`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from flux_client.client import FluxClient
from flux_client.opening import DEFAULT_URLS
from flux_client.request import Knobs
from flux_client.retry import DEFAULT_TIMEOUT_S
from flux_serving.contract import limits
from flux_serving.errors import FluxError, InvalidRequest

#: Characters of a file's name that come from its pictures; file systems end at 255 bytes.
_MAX_STEM = 100


class Task(NamedTuple):
    """One request: its pictures, and how its outputs' names begin."""

    pictures: list[Path]
    stem: str


def main(argv: Sequence[str] | None = None, open_client: Callable[..., FluxClient] = FluxClient) -> int:
    """Returns the exit code: 0 all well, 1 something failed; a wrong command line exits with 2."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        client = open_client(options.url, protocol=options.protocol, timeout_s=options.timeout)
    except ValueError as error:
        parser.error(str(error))
    with closing(client):
        try:
            return _ready(client) if options.command == "ready" else _redux(client, options)
        except (FluxError, OSError) as error:
            return _failed(error)


def _ready(client: FluxClient) -> int:
    client.wait_until_ready()
    print("ready")
    return 0


def _redux(client: FluxClient, options: argparse.Namespace) -> int:
    knobs = Knobs(
        prompt=options.prompt,
        image_strength=options.strength,
        height=options.height,
        width=options.width,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        num_images=options.number,
        seed=options.seed,
        output_format=options.format,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    exit_code = 0
    tasks = plan(options.pictures, blend=options.blend)
    for task in tqdm(tasks, unit="picture", file=sys.stderr, disable=len(tasks) == 1):
        try:
            variations = client.redux(task.pictures, **knobs)
            for variation in variations:
                target = options.out / f"{task.stem}-{variation.seed}.{variation.format}"
                _refuse_inputs(target, options.pictures)
                tqdm.write(str(variation.save(target)), file=sys.stdout)
        except (FluxError, OSError) as error:
            exit_code = _failed(error, ", ".join(map(str, task.pictures)))
    return exit_code


def plan(pictures: Sequence[Path], *, blend: bool) -> list[Task]:
    """One request for each picture, or one for all; no two begin their outputs' names alike."""
    if blend:
        return [Task(list(pictures), "+".join(picture.stem for picture in pictures)[:_MAX_STEM])]
    tasks: list[Task] = []
    taken: set[str] = set()
    for picture in pictures:
        stem, number = picture.stem[:_MAX_STEM], 1
        while stem in taken:
            number += 1
            stem = f"{picture.stem[:_MAX_STEM]}-{number}"
        taken.add(stem)
        tasks.append(Task([picture], stem))
    return tasks


def _refuse_inputs(target: Path, pictures: Sequence[Path]) -> None:
    if target.resolve() in {picture.resolve() for picture in pictures}:
        raise InvalidRequest(f"{target} is one of the pictures given; choose another folder with -o")


def _failed(error: Exception, name: str = "") -> int:
    line = " ".join(str(error).split())
    tqdm.write(f"flux-client: {name}: {line}" if name else f"flux-client: {line}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", help="host:port of Triton (default: localhost and the protocol's port)")
    server.add_argument("--protocol", choices=list(DEFAULT_URLS), default="grpc")
    server.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, help="seconds for one request (%(default)g)"
    )

    parser = argparse.ArgumentParser(prog="flux-client", description="Call FLUX Redux on Triton.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ready", parents=[server], help="wait until the server takes requests")
    redux = commands.add_parser("redux", parents=[server], help="make variations of pictures")
    redux.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    redux.add_argument("-o", "--out", type=Path, default=Path("out"), help="folder for the variations (%(default)s)")
    redux.add_argument("-n", "--number", type=int, help=f"variations of each picture, 1..{limits.MAX_IMAGES}")
    redux.add_argument("--blend", action="store_true", help="all pictures in one request: variations of their mixture")
    redux.add_argument("--prompt", help="text beside the pictures")
    redux.add_argument("--strength", type=_numbers, help="weight of the pictures: S, or S1,S2,... with --blend")
    redux.add_argument("--height", type=int, help="pixels")
    redux.add_argument("--width", type=int, help="pixels")
    redux.add_argument("--steps", type=int, help=f"denoising steps, 1..{limits.MAX_STEPS}")
    redux.add_argument("--guidance", type=float, help=f"distilled guidance, 0..{limits.MAX_GUIDANCE:g}")
    redux.add_argument("--seed", type=int, help="seed of the first variation; -1: random")
    redux.add_argument("--format", choices=limits.FORMATS)
    return parser


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
