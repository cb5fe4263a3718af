"""What perf_analyzer's `--profile-export-file` says: every request, when it went out and when its answers came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_serving.contract.handed import OUTPUT_IMAGE, PIXELS

_NANOSECONDS = 1e9


@dataclass(frozen=True)
class Request:
    """Seconds since the first request of its run: when it was sent, when its first answer came, and its last.

    has_picture: whether an answer holds one; None where the export doesn't show answers.
    """

    sent_s: float
    first_s: float
    last_s: float
    has_picture: bool | None = None

    @property
    def latency_s(self) -> float:
        """Until the last answer. perf_analyzer itself goes by the first one where a model is decoupled."""
        return self.last_s - self.sent_s


def read_export(file: Path) -> list[Request]:
    """In the order of sending; requests without an answer, which perf_analyzer had given up, are left out.

    Raises ValueError: this is no export of one run.
    """
    # Pictures are written into it as they are, between quotes, so it is not always UTF-8, as JSON should be.
    try:
        experiments = json.loads(file.read_text(encoding="latin-1"))["experiments"]
        (experiment,) = experiments
        raw = [one for one in experiment["requests"] if one["response_timestamps"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name} is no export of one run of perf_analyzer: {error}") from error
    start = min((one["timestamp"] for one in raw), default=0)
    return sorted((_request(one, start) for one in raw), key=lambda request: request.sent_s)


def _request(raw: dict[str, Any], start: int) -> Request:
    sent, first, last = (
        (stamp - start) / _NANOSECONDS
        for stamp in (raw["timestamp"], min(raw["response_timestamps"]), max(raw["response_timestamps"]))
    )
    answers = raw.get("response_outputs")
    pictures = (answer.get(name) for answer in answers or () for name in (OUTPUT_IMAGE.name, PIXELS.name))
    return Request(sent, first, last, any(map(bool, pictures)) if answers else None)


def images_per_s(requests: Sequence[Request]) -> float:
    """From the first request's sending to the last answer. perf_analyzer's own figure has windows of whole seconds."""
    wall = max(request.last_s for request in requests) - min(request.sent_s for request in requests)
    return len(requests) / wall


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed: a request that there was, none between two."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
