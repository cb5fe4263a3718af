"""Load generator: a separate process that sends requests to one system and measures their latency.

    python -m flux_tools.bench.load TASK.json ANSWER.json

Input images are created before the first request and results compared after the last, so that neither takes CPU time
from the server.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flux_tools.bench.callers import Caller, open_caller
from flux_tools.bench.engine_metrics import read_counters
from flux_tools.bench.images import encoded
from flux_tools.bench.plan import ImageOptions, respelled, warm_up
from flux_tools.bench.results import RequestOutcome
from flux_tools.metrics import growth


@dataclass(frozen=True)
class LoadTask:
    """Task of the load generator.

    mode: closed, open, fairness or reference. jobs: in the order of sending. block, seconds: for mode closed, as in
    `closed_loop`. arrivals_s: for mode open, one for each job. occasion: a text that makes the bytes of images and
    prompts new. references: folder of stock diffusers' images, INDEX.npy; mode reference writes them.
    """

    caller: str
    address: str
    mode: str
    occasion: str
    references: str
    jobs: tuple[ImageOptions, ...]
    concurrency: int = 1
    block: int = 1
    seconds: float = 0.0
    arrivals_s: tuple[float, ...] = ()
    metrics_url: str | None = None

    @classmethod
    def read(cls, path: Path) -> LoadTask:
        raw = json.loads(path.read_text())
        jobs = tuple(ImageOptions(**job) for job in raw["jobs"])
        return cls(**{**raw, "jobs": jobs, "arrivals_s": tuple(raw["arrivals_s"])})


@dataclass(frozen=True)
class Answer:
    """The outcome of a request and its image."""

    outcome: RequestOutcome
    data: bytes | None


def ask(caller: Caller, job: ImageOptions, image: bytes, due: float, origin: float) -> Answer:
    """Send one request. due, origin: times of `time.perf_counter`."""
    data, error = None, None
    try:
        data = caller(image, job)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Answer(RequestOutcome(job.index, due - origin, time.perf_counter() - origin, error), data)


def closed_loop(
    caller: Caller,
    jobs: Sequence[ImageOptions],
    images: Sequence[bytes],
    concurrency: int,
    block: int | None = None,
    seconds: float = 0.0,
) -> list[Answer]:
    """Run `concurrency` clients that each send the next request when they have received a response.

    block: number of jobs in a block; new blocks start until `seconds` have passed or no jobs are left. None: all jobs
    are one block.
    """
    origin = time.perf_counter()

    def in_blocks() -> Iterator[tuple[ImageOptions, bytes]]:
        for number, order in enumerate(zip(jobs, images, strict=True)):
            if number and block and number % block == 0 and time.perf_counter() - origin >= seconds:
                return
            yield order

    orders = in_blocks()
    taking = threading.Lock()
    answers: list[Answer] = []

    def client() -> None:
        while True:
            with taking:
                order = next(orders, None)
            if order is None:
                return
            answers.append(ask(caller, *order, time.perf_counter(), origin))

    _together([client] * concurrency)
    return answers


def open_loop(
    caller: Caller, jobs: Sequence[ImageOptions], images: Sequence[bytes], arrivals_s: Sequence[float]
) -> list[Answer]:
    """Send every request when it is due, regardless of the requests in flight. Latency counts from that time."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        origin = time.perf_counter()
        asked = []
        for job, image, arrival in zip(jobs, images, arrivals_s, strict=True):
            due = origin + arrival
            time.sleep(max(0.0, due - time.perf_counter()))
            asked.append(pool.submit(ask, caller, job, image, due, origin))
        return [future.result() for future in asked]


#: Seconds between the long jobs and the short one in the fairness scenario.
HEAD_START_S = 0.3


def short_beside_long(caller: Caller, jobs: Sequence[ImageOptions], images: Sequence[bytes]) -> dict[str, Any]:
    """Measure a short job alone and together with long ones.

    jobs: the long jobs, then four short ones: three are measured alone, the last together with the long jobs.
    """
    *long, first, second, third, last = zip(jobs, images, strict=True)
    errors: list[str] = []

    def seconds(order: tuple[ImageOptions, bytes]) -> float:
        began = time.perf_counter()
        outcome = ask(caller, *order, began, began).outcome
        if outcome.error:
            errors.append(outcome.error)
        return outcome.ended_s

    solo = statistics.median(seconds(order) for order in (first, second, third))
    with ThreadPoolExecutor(len(long)) as pool:
        running = [pool.submit(seconds, order) for order in long]
        time.sleep(HEAD_START_S)
        beside = seconds(last)
        long_s = max(future.result() for future in running)
    return {"solo_s": solo, "beside_s": beside, "long_s": long_s, "errors": errors}


def _together(clients: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=client) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pixels(data: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int16)


def compared(answer: Answer, references: Path) -> RequestOutcome:
    """Return the outcome with the largest difference from stock diffusers' image, if there is a reference image."""
    reference = references / f"{answer.outcome.index}.npy"
    if answer.data is None or not reference.exists():
        return answer.outcome
    try:
        got, expected = pixels(answer.data), np.load(reference)
        if got.shape != expected.shape:
            return replace(answer.outcome, error=f"image shape {got.shape}, expected {expected.shape}")
        return replace(answer.outcome, difference=int(np.abs(got - expected).max()))
    except Exception as failure:
        return replace(answer.outcome, error=f"response is not an image: {failure}")


def orders(jobs: Sequence[ImageOptions], occasion: str) -> tuple[list[ImageOptions], list[bytes]]:
    """Return the jobs and their input images, with prompts and images whose bytes no cache has."""
    return respelled(jobs, occasion), [encoded(job.index, occasion) for job in jobs]


def run(task: LoadTask) -> dict[str, Any]:
    caller = open_caller(task.caller, task.address)
    references = Path(task.references)
    jobs, images = orders(task.jobs, task.occasion)
    if task.mode == "reference":
        references.mkdir(parents=True, exist_ok=True)
        for job, image in zip(jobs, images, strict=True):
            np.save(references / f"{job.index}.npy", pixels(caller(image, job)))
        return {}
    first = warm_up(task.jobs, max(task.concurrency, 2))
    closed_loop(caller, *orders(first, f"{task.occasion} warm-up"), task.concurrency)
    if task.mode == "fairness":
        return short_beside_long(caller, jobs, images)
    before = read_counters(task.metrics_url) if task.metrics_url else {}
    if task.mode == "open":
        answers = open_loop(caller, jobs, images, task.arrivals_s)
    else:
        answers = closed_loop(caller, jobs, images, task.concurrency, task.block, task.seconds)
    after = read_counters(task.metrics_url) if task.metrics_url else {}
    outcomes = sorted((compared(answer, references) for answer in answers), key=lambda outcome: outcome.index)
    return {"outcomes": [asdict(outcome) for outcome in outcomes], "metrics": growth(before, after)}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(LoadTask.read(Path(sys.argv[1])))))
