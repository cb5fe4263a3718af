"""The progress bar."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tqdm import tqdm

from flux_client.events import Progress
from flux_client.opening import STREAMING_PROTOCOL
from flux_contract import limits


class Meter:
    """Progress bar on stderr.

    It counts the denoising steps of all images if stderr is a terminal and the protocol reports steps. Otherwise, it
    counts tasks if there are several.
    """

    def __init__(self, options: argparse.Namespace, tasks: int) -> None:
        is_watched = sys.stderr is not None and sys.stderr.isatty()
        self._by_steps = options.protocol == STREAMING_PROTOCOL and is_watched
        self._tasks = tasks
        self._images = options.num_images or len(options.seed or ()) or limits.DEFAULT_IMAGES
        self._steps_of_task = 0
        self._steps_done: dict[int, int] = {}
        self._tasks_done = 0
        self._bar: tqdm[Any] = tqdm(
            total=None if self._by_steps else tasks,
            unit="step" if self._by_steps else "image",
            file=sys.stderr,
            disable=options.quiet or sys.stderr is None or (tasks == 1 and not self._by_steps),
        )

    def show(self, progress: Progress) -> None:
        if self._by_steps:
            self._steps_done[progress.image] = progress.step
            self._steps_of_task = self._images * progress.steps
            self._bar.total = self._tasks * self._steps_of_task
            self._advance(self._tasks_done * self._steps_of_task + sum(self._steps_done.values()))

    def task_done(self) -> None:
        """Count a finished task, successful or not, even if some of its progress was not received."""
        self._tasks_done += 1
        self._steps_done.clear()
        self._advance(self._tasks_done * (self._steps_of_task if self._by_steps else 1))

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _advance(self, done: int) -> None:
        self._bar.update(done - self._bar.n)
