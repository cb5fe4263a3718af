"""Sends the request of each task, and writes its images, previews and edge maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flux_client.cli.meter import Meter
from flux_client.cli.mode_arguments import DEFAULT_PREVIEW_STEPS
from flux_client.cli.outputs import Names, failed, new_file
from flux_client.cli.tasks import GenerationTask, plan
from flux_client.cli.values import keywords_from, with_pipes_read
from flux_client.client import FluxClient
from flux_client.image_result import ImageResult
from flux_client.modes import EDGES_KEYWORDS
from flux_client.opening import STREAMING_PROTOCOL
from flux_contract import limits
from flux_contract.errors import InvalidRequest


def generate(client: FluxClient, options: argparse.Namespace) -> int:
    """Run all tasks. Returns the exit code."""
    for folder in filter(None, (options.out, options.previews, options.edges_out)):
        _make_folder(folder)
    exit_code, names = 0, Names()
    pipes: dict[Path, bytes] = {}
    common, tasks = keywords_from(options), plan(options)
    with Meter(options, len(tasks)) as meter:
        for task in tasks:
            try:
                arguments = with_pipes_read({**common, **task.arguments}, pipes)
                if options.edges_out is not None:
                    _write_edges(client, task, arguments, options)
                for result in _results(client, task, arguments, options, meter):
                    file = f"{task.stem}-{options.command}-{result.seed}.{result.format}"
                    names.print(result.save(new_file(options.out / file)))
            except Exception as error:  # The other tasks continue.
                exit_code = failed(error, task.name, options.mode)
            meter.task_done()
    return exit_code or names.exit_code


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(f"{folder} is not a folder and cannot become one") from error


def _results(
    client: FluxClient, task: GenerationTask, arguments: dict[str, Any], options: argparse.Namespace, meter: Meter
) -> list[ImageResult]:
    """Return the images of one task. Writes previews as they arrive."""
    if options.protocol != STREAMING_PROTOCOL:
        made: list[ImageResult] = getattr(client, options.command)(**arguments)
        return made
    results: list[ImageResult] = []
    previews = {"preview_steps": _preview_steps(options), "preview_method": options.preview_method}
    with client.stream(mode=options.command, **previews, **arguments) as stream:
        for event in stream:
            if isinstance(event, ImageResult):
                results.append(event)
                continue
            meter.show(event)
            if event.preview is not None:
                name = f"{task.stem}-{options.command}-{event.image}-{event.step}.jpg"
                event.preview.save(new_file(options.previews / name))
    return results


def _preview_steps(options: argparse.Namespace) -> int | None:
    given: int | None = options.preview_steps
    if options.previews is None or given is not None:
        return given
    steps = options.num_inference_steps or limits.DEFAULT_STEPS
    return min(DEFAULT_PREVIEW_STEPS, max(1, steps // 2))


def _write_edges(
    client: FluxClient, task: GenerationTask, arguments: dict[str, Any], options: argparse.Namespace
) -> None:
    edges = client.edges(**{keyword: arguments[keyword] for keyword in EDGES_KEYWORDS})
    edges.save(new_file(options.edges_out / f"{task.stem}-edges.png"))
