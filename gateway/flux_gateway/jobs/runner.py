"""Runs jobs as background tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from flux_client import Event
from flux_gateway.jobs.job import GenerationJob
from flux_gateway.refusals import Refusal
from flux_gateway.results import Reservation, ResultStore


class JobRunner:
    """Runs jobs. For one event loop. A job is in the result store from its start until it expires or is deleted."""

    def __init__(self, results: ResultStore) -> None:
        self._results = results
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self, job: GenerationJob, room: Reservation, first: Event, events: AsyncGenerator[Event, None]) -> None:
        """Start a job. room: reservation for its images."""
        room.publish(job.name, job)
        task = asyncio.create_task(job.run(first, events), name=f"job {job.name}")
        self._running[job.name] = task
        task.add_done_callback(lambda _: self._complete(job, room))

    def job(self, name: str, owner: str) -> GenerationJob:
        """Return a job. Raises Refusal: 404, the job does not exist or belongs to another caller."""
        found = self._results.get(name, GenerationJob)
        if found is None or found[1].owner != owner:
            raise Refusal(404, "the job does not exist or has expired")
        return found[0]

    async def remove(self, job: GenerationJob) -> None:
        """Cancel a running job, and delete it."""
        task = self._running.get(job.name)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        found = self._results.get(job.name, GenerationJob)
        if found is not None:
            found[1].release()

    async def close(self) -> None:
        """Cancel all jobs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _complete(self, job: GenerationJob, room: Reservation) -> None:
        del self._running[job.name]
        job.expires_at = int(time.time() + self._results.limits.seconds)
        room.keep(job.size)
