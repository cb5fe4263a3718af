"""The jobs that are there: so many, so many bytes, and none for long after its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from flux_client import Event
from flux_gateway.jobs.job import Job
from flux_gateway.refusals import Refusal


class Shelf:
    """For one event loop. Those that run are as many as are admitted; of the others the oldest go first."""

    def __init__(self, most: int, most_bytes: int, seconds: float) -> None:
        """seconds: that a job stays after its end."""
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._jobs: dict[str, Job] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: Job, first: Event, events: AsyncGenerator[Event, None]) -> None:
        """Run it from here on."""
        self._jobs[job.name] = job
        task = asyncio.create_task(job.run(first, events), name=f"job {job.name}")
        self._running[job.name] = task
        task.add_done_callback(lambda _: self._ended(job))
        self._make_room()

    def job(self, name: str, owner: str) -> Job:
        """Raises Refusal: 404, there is none, or it is another's."""
        job = self._jobs.get(name)
        if job is None or job.owner != owner:
            raise Refusal(404, "there is no such job, or not any more")
        return job

    async def remove(self, job: Job) -> None:
        """End it, if it runs, and forget it."""
        task = self._running.get(job.name)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._jobs.pop(job.name, None)

    async def close(self) -> None:
        """End all."""
        for job in list(self._jobs.values()):
            await self.remove(job)

    def _ended(self, job: Job) -> None:
        del self._running[job.name]
        job.expires_at = int(time.time() + self._seconds)
        asyncio.get_running_loop().call_later(self._seconds, self._jobs.pop, job.name, None)
        self._make_room()

    def _make_room(self) -> None:
        ended = [job for job in self._jobs.values() if job.name not in self._running]
        size = sum(job.size for job in ended)
        for job in ended:
            if len(self._jobs) <= self._most and size <= self._most_bytes:
                return
            size -= job.size
            del self._jobs[job.name]
