"""From options to files: each task's request, and what comes of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flux_client.cli.arguments import knobs_of, preview_steps_of
from flux_client.cli.meter import Meter
from flux_client.cli.outputs import Names, failed, free
from flux_client.cli.tasks import GenerationTask, plan
from flux_client.client import FluxClient
from flux_client.modes import EDGES_KEYWORDS
from flux_client.opening import STREAMING_PROTOCOL
from flux_client.variation import Variation
from flux_contract.errors import InvalidRequest


def generate(client: FluxClient, options: argparse.Namespace) -> int:
    """Returns the exit code."""
    for folder in filter(None, (options.out, options.previews, options.edges_out)):
        _make_folder(folder)
    exit_code, names = 0, Names()
    knobs, tasks = knobs_of(options), plan(options)
    with Meter(options, len(tasks)) as meter:
        for task in tasks:
            arguments = {**knobs, **task.arguments}
            try:
                if options.edges_out is not None:
                    _write_edges(client, task, arguments, options)
                for variation in _variations(client, task, arguments, options, meter):
                    target = free(options.out / f"{task.stem}-{variation.seed}.{variation.format}", options)
                    names.tell(variation.save(target))
            except Exception as error:  # whatever is wrong with this one, the next may be well
                exit_code = failed(error, task.name)
            meter.task_done()
    return exit_code or names.exit_code


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(f"{folder} is not a folder and cannot become one") from error


def _variations(
    client: FluxClient, task: GenerationTask, arguments: dict[str, Any], options: argparse.Namespace, meter: Meter
) -> list[Variation]:
    """Of one task; previews are written as they come."""
    if options.protocol != STREAMING_PROTOCOL:
        made: list[Variation] = getattr(client, options.command)(**arguments)
        return made
    variations: list[Variation] = []
    with client.stream(mode=options.command, preview_steps=preview_steps_of(options), **arguments) as stream:
        for event in stream:
            if isinstance(event, Variation):
                variations.append(event)
                continue
            meter.show(event)
            if event.preview is not None:
                name = f"{task.stem}-{event.image}-{event.step}.jpg"
                event.preview.save(free(options.previews / name, options))
    return variations


def _write_edges(
    client: FluxClient, task: GenerationTask, arguments: dict[str, Any], options: argparse.Namespace
) -> None:
    edges = client.edges(**{keyword: arguments[keyword] for keyword in EDGES_KEYWORDS})
    edges.save(free(options.edges_out / f"{task.stem}-edges.png", options))
