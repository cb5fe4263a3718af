"""What perf_analyzer says of a run: its `--profile-export-file` with every request, or what it printed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import numpy as np

from flux_contract.internal_tensors import OUTPUT_IMAGE, PIXELS

_NANOSECONDS = 1e9


@dataclass(frozen=True)
class PerfRequest:
    """Seconds since the first request of its run: when it was sent, when its first answer came, and its last.

    has_image: whether an answer holds one; as good as yes where the export shows no answers.
    """

    sent_s: float
    first_s: float
    last_s: float
    has_image: bool

    @property
    def latency_s(self) -> float:
        """Until the last answer. perf_analyzer itself goes by the first one where a model is decoupled."""
        return self.last_s - self.sent_s


@dataclass(frozen=True)
class Summary:
    """Of one run. requests: that were answered. images: requests whose answer holds one.

    first_s: p50 until the first of several answers; None where each request has one.
    """

    requests: int
    images: int
    images_per_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    first_s: float | None = None


def read_export(file: Path) -> list[PerfRequest]:
    """In the order of sending; what has no answer is left out. Raises ValueError: this is no export of one run."""
    # Images are written into it as they are, between quotes, so it is not always UTF-8, as JSON should be.
    try:
        (experiment,) = json.loads(file.read_text(encoding="latin-1"))["experiments"]
        raw = [one for one in experiment["requests"] if one["response_timestamps"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name} is no export of one run of perf_analyzer: {error}") from error
    start = min((one["timestamp"] for one in raw), default=0)
    return sorted((_request(one, start) for one in raw), key=lambda request: request.sent_s)


def _request(raw: dict[str, Any], start: int) -> PerfRequest:
    sent, first, last = (
        (stamp - start) / _NANOSECONDS
        for stamp in (raw["timestamp"], min(raw["response_timestamps"]), max(raw["response_timestamps"]))
    )
    answers = raw.get("response_outputs")
    outputs = (answer.get(name) for answer in answers or () for name in (OUTPUT_IMAGE.name, PIXELS.name))
    return PerfRequest(sent, first, last, answers is None or any(map(bool, outputs)))


def summed_up(requests: Sequence[PerfRequest]) -> Summary:
    """Images a second are from the first request's sending to the last answer: perf_analyzer's own figure rounds the
    time up to whole seconds where it is told how many requests to send.
    """
    latencies = [request.latency_s for request in requests]
    wall = max(request.last_s for request in requests) - min(request.sent_s for request in requests)
    firsts = [request.first_s - request.sent_s for request in requests]
    # Each is one of the latencies, as perf_analyzer's own are.
    p50, p90, p99 = np.percentile(latencies, (50, 90, 99), method="inverted_cdf").tolist()
    return Summary(
        requests=len(requests),
        images=sum(request.has_image for request in requests),
        images_per_s=len(requests) / wall,
        mean_s=fmean(latencies),
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        first_s=median_low(firsts) if firsts != latencies else None,
    )


def printed(text: str, concurrency: int) -> Summary:
    """From what perf_analyzer prints, where it leaves the export empty, as 2.51 does with shared memory.

    Images a second are the clients by the mean latency, for the same reason. Raises ValueError: a figure is missing.
    """

    def figure(label: str) -> float:
        # Those of the server, which come later, have the same labels.
        found = re.search(rf"^ *{label}: (\d+)", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"perf_analyzer printed no {label!r}")
        return float(found[1])

    count, mean = int(figure("Request count")), 1e-6 * figure("Avg latency")
    p50, p90, p99 = (1e-6 * figure(f"p{share} latency") for share in (50, 90, 99))
    return Summary(count, count, concurrency / mean, mean, p50, p90, p99)
