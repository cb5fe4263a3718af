"""The command `flux-client`.

It streams where the protocol does, for the bar and so that Ctrl-C ends the work at the server too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from flux_client.client import FluxClient
from flux_client.events import Progress
from flux_client.opening import DEFAULT_URLS
from flux_client.request import Knobs
from flux_client.retry import DEFAULT_TIMEOUT_S
from flux_client.variation import Variation
from flux_serving.contract import limits
from flux_serving.errors import FluxError, InvalidRequest

#: Bytes of a file's name that come from its pictures; file systems end at 255.
_MAX_STEM = 200
_STREAMING_PROTOCOL = "grpc"
#: Ten previews of a picture that takes the usual 50 steps.
_DEFAULT_PREVIEW_STEPS = 5
#: What a shell says of a command that Ctrl-C ended.
_INTERRUPTED = 130


class Task(NamedTuple):
    """One request: its pictures, and how its outputs' names begin."""

    pictures: list[Path]
    stem: str


def main(argv: Sequence[str] | None = None, open_client: Callable[..., FluxClient] = FluxClient) -> int:
    """Returns the exit code: 0 all well, 1 something failed, 130 after Ctrl-C; a wrong command line exits with 2."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "redux":
        _check_previews(parser, options)
        _check_lists(parser, options)
    try:
        client = open_client(options.url, protocol=options.protocol, timeout_s=options.timeout)
    except ValueError as error:
        parser.error(str(error))
    with closing(client):
        try:
            return _ready(client) if options.command == "ready" else _redux(client, options)
        except (FluxError, OSError) as error:
            return _failed(error)
        except KeyboardInterrupt:
            return _INTERRUPTED


def _ready(client: FluxClient) -> int:
    client.wait_until_ready()
    print("ready")
    return 0


def _redux(client: FluxClient, options: argparse.Namespace) -> int:
    knobs = Knobs(
        prompt=options.prompt,
        strength=options.strength,
        image_strength=options.image_strength,
        image_detail=options.detail,
        image_detail_filter=options.detail_filter,
        image_detail_weight=options.detail_weight,
        image_blend="sum" if options.sum else None,
        image_mask=options.mask,
        image_mask_crop=int(options.crop) or None,
        image_fit=options.fit,
        image_start=options.start,
        image_end=options.end,
        prompt_strength=options.prompt_strength,
        prompt_start=options.prompt_start,
        prompt_end=options.prompt_end,
        height=options.height,
        width=options.width,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        num_images=options.number,
        seed=options.seed,
        output_format=options.format,
        priority=options.priority,
    )
    for folder in filter(None, (options.out, options.previews)):
        folder.mkdir(parents=True, exist_ok=True)
    exit_code, names = 0, _Names()
    tasks = plan(options.pictures, blend=options.blend or options.sum)
    with _Meter(options, len(tasks)) as meter:
        for task in tasks:
            try:
                for variation in _variations(client, task, knobs, options, meter):
                    target = _free(options.out / f"{task.stem}-{variation.seed}.{variation.format}", options)
                    names.tell(variation.save(target))
            except (FluxError, OSError) as error:
                exit_code = _failed(error, ", ".join(map(str, task.pictures)))
            meter.task_done()
    return exit_code or names.exit_code


def _variations(
    client: FluxClient, task: Task, knobs: Knobs, options: argparse.Namespace, meter: _Meter
) -> list[Variation]:
    """Of one task; previews are written as they come."""
    if options.protocol != _STREAMING_PROTOCOL:
        return client.redux(task.pictures, **knobs)
    variations: list[Variation] = []
    preview_steps = options.preview_steps
    if options.previews is not None and preview_steps is None:
        preview_steps = min(_DEFAULT_PREVIEW_STEPS, max(1, (options.steps or limits.DEFAULT_STEPS) // 2))
    with client.stream(task.pictures, preview_steps=preview_steps, **knobs) as stream:
        for event in stream:
            if isinstance(event, Variation):
                variations.append(event)
                continue
            meter.show(event)
            if event.preview is not None:
                name = f"{task.stem}-{event.image}-{event.step}.jpg"
                event.preview.save(_free(options.previews / name, options))
    return variations


class _Names:
    """The files' names on stdout. Where nobody takes them any more, the pictures are written all the same."""

    def __init__(self) -> None:
        self.exit_code = 0

    def tell(self, path: Path) -> None:
        if self.exit_code or sys.stdout is None:
            return
        try:
            tqdm.write(str(path), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            self.exit_code = _failed(error, "standard output")
            # What is left in its buffer must not fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Meter:
    """The bar on stderr: denoising steps of all images where that is a terminal, else pictures, if there are several.

    Only a stream tells steps, and nobody watches a file.
    """

    def __init__(self, options: argparse.Namespace, tasks: int) -> None:
        is_watched = sys.stderr is not None and sys.stderr.isatty()
        self._by_steps = options.protocol == _STREAMING_PROTOCOL and is_watched
        self._steps_of_task = (options.number or limits.DEFAULT_IMAGES) * (options.steps or limits.DEFAULT_STEPS)
        self._steps_done: dict[int, int] = {}
        self._tasks_done = 0
        self._bar = tqdm(
            total=tasks * self._steps_of_task if self._by_steps else tasks,
            unit="step" if self._by_steps else "picture",
            file=sys.stderr,
            disable=options.quiet or sys.stderr is None or (tasks == 1 and not self._by_steps),
        )

    def show(self, progress: Progress) -> None:
        self._steps_done[progress.image] = progress.step
        if self._by_steps:
            self._advance(self._tasks_done * self._steps_of_task + sum(self._steps_done.values()))

    def task_done(self) -> None:
        """Whatever became of it, and however much of its progress was lost on the way."""
        self._tasks_done += 1
        self._steps_done.clear()
        self._advance(self._tasks_done * (self._steps_of_task if self._by_steps else 1))

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _advance(self, done: int) -> None:
        self._bar.update(done - self._bar.n)


def plan(pictures: Sequence[Path], *, blend: bool) -> list[Task]:
    """One request for each picture, or one for all; no two begin their outputs' names alike."""
    if blend:
        return [Task(list(pictures), _cut("+".join(picture.stem for picture in pictures)))]
    tasks: list[Task] = []
    taken: set[str] = set()
    for picture in pictures:
        stem, number = _cut(picture.stem), 1
        while stem in taken:
            number += 1
            stem = f"{_cut(picture.stem)}-{number}"
        taken.add(stem)
        tasks.append(Task([picture], stem))
    return tasks


def _cut(stem: str) -> str:
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= _MAX_STEM else encoded[:_MAX_STEM].decode(errors="ignore")


def _free(target: Path, options: argparse.Namespace) -> Path:
    """`target`. Raises InvalidRequest: it is one of the pictures given."""
    if target.resolve() in {picture.resolve() for picture in options.pictures}:
        raise InvalidRequest(f"{target} is one of the pictures given; choose another folder")
    return target


def _check_previews(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.previews is None and options.preview_steps is not None:
        parser.error("--preview-steps needs --previews FOLDER")
    if options.previews is not None and options.protocol != _STREAMING_PROTOCOL:
        parser.error(f"--previews needs --protocol {_STREAMING_PROTOCOL}")


def _check_lists(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Values of several pictures are values of one request."""
    if not (options.blend or options.sum):
        for name in ("strength", "image_strength", "detail", "mask", "start", "end"):
            if len(getattr(options, name) or ()) > 1:
                parser.error(f"several values of --{name.replace('_', '-')} need --blend or --sum")


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
    _add_control(redux)
    redux.add_argument("--height", type=int, help="pixels")
    redux.add_argument("--width", type=int, help="pixels")
    redux.add_argument("--steps", type=int, help=f"denoising steps, 1..{limits.MAX_STEPS}")
    redux.add_argument("--guidance", type=float, help=f"distilled guidance, 0..{limits.MAX_GUIDANCE:g}")
    redux.add_argument("--seed", type=int, help="seed of the first variation; -1: random")
    redux.add_argument("--format", choices=limits.FORMATS)
    redux.add_argument(
        "--priority", type=int, help=f"{limits.MIN_PRIORITY} background, 0 usual, {limits.MAX_PRIORITY} interactive"
    )
    redux.add_argument("--previews", type=Path, metavar="FOLDER", help="write previews there: picture-image-step.jpg")
    redux.add_argument(
        "--preview-steps",
        type=int,
        metavar="K",
        help=f"a preview after every K steps but the last, 0..{limits.MAX_STEPS}; 0: none "
        f"(default: {_DEFAULT_PREVIEW_STEPS}, or half of the steps where these are few)",
    )
    redux.add_argument("-q", "--quiet", action="store_true", help="no bar on stderr")
    return parser


def _add_control(redux: argparse.ArgumentParser) -> None:
    """What of the pictures counts, how much, and when; values of several pictures go with --blend."""
    redux.add_argument("--blend", action="store_true", help="all pictures in one request: variations of their mixture")
    redux.add_argument("--sum", action="store_true", help="the same, by diffusers' weighted sum of their tokens")
    redux.add_argument("--prompt", help="text beside the pictures")
    redux.add_argument("--strength", type=numbers, help="0: no picture, 0.5: half of the way, 1: all; S, or S1,S2,...")
    redux.add_argument("--image-strength", type=numbers, help=f"weight of the pictures, 0..{limits.MAX_STRENGTH:g}")
    redux.add_argument("--detail", type=integers, help=f"tokens pooled into one along a side, 1..{limits.MAX_DETAIL}")
    redux.add_argument("--detail-filter", choices=limits.DETAIL_FILTERS, help="how they are pooled")
    redux.add_argument("--detail-weight", choices=limits.DETAIL_WEIGHTS, help="what a pooled token weighs")
    redux.add_argument(
        "--mask", type=Path, action="append", help="white where the picture counts; again for each picture, or once"
    )
    redux.add_argument("--crop", action="store_true", help="cut the pictures to their masks first")
    redux.add_argument("--fit", choices=limits.FITS, help="what becomes of pictures that are no squares")
    redux.add_argument("--start", type=numbers, help="fraction of the steps that are over when the pictures come in")
    redux.add_argument("--end", type=numbers, help="fraction of the steps that are over when they go")
    redux.add_argument("--prompt-strength", type=float, help="weight of the prompt")
    redux.add_argument("--prompt-start", type=float, help="fraction of the steps that are over when it comes in")
    redux.add_argument("--prompt-end", type=float, help="fraction of the steps that are over when it goes")


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
