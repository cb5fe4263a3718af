"""Reads perf_analyzer's results: its `--profile-export-file` with every request, or its printed output."""

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
    """Times of a request in seconds since the first request of the run: sending, first response and last response.

    has_image: whether a response has an image; True if the export has no response data.
    """

    sent_s: float
    first_s: float
    last_s: float
    has_image: bool

    @property
    def latency_s(self) -> float:
        """Seconds until the last response. perf_analyzer itself uses the first response of a decoupled model."""
        return self.last_s - self.sent_s


@dataclass(frozen=True)
class Summary:
    """Summary of a run.

    requests: with a response. images: requests whose response has an image. first_s: p50 of the time until the first of
    several responses; None if each request has only one.
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
    """Return the requests that have a response, in the order of sending.

    Raises ValueError: the file is not an export of a single run.
    """
    # The export contains images as raw bytes, so it is not always valid UTF-8.
    try:
        (experiment,) = json.loads(file.read_text(encoding="latin-1"))["experiments"]
        raw = [one for one in experiment["requests"] if one["response_timestamps"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name} is not an export of a single perf_analyzer run: {error}") from error
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
    """Summarize a run. Images per second count from the sending of the first request to the last response.

    perf_analyzer's own throughput rounds this time up to whole seconds if `--request-count` is given.
    """
    latencies = [request.latency_s for request in requests]
    wall = max(request.last_s for request in requests) - min(request.sent_s for request in requests)
    firsts = [request.first_s - request.sent_s for request in requests]
    # Like perf_analyzer's percentiles, each is one of the latencies.
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
    """Parse perf_analyzer's printed output, for runs whose export is empty, as with shared memory in 2.51.

    Images per second are the number of clients divided by the mean latency, because the printed throughput is rounded
    as above. Raises ValueError: a value is missing.
    """

    def figure(label: str) -> float:
        # Take the first match: the server's statistics, further down, have the same labels.
        found = re.search(rf"^ *{label}: (\d+)", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"perf_analyzer printed no {label!r}")
        return float(found[1])

    count, mean = int(figure("Request count")), 1e-6 * figure("Avg latency")
    p50, p90, p99 = (1e-6 * figure(f"p{share} latency") for share in (50, 90, 99))
    return Summary(count, count, concurrency / mean, mean, p50, p90, p99)
