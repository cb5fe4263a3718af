"""Lanes of a request queue, which separate requests by decoding time so that short ones overtake long ones."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flux_contract.errors import Overloaded
from flux_serving.backend.pending_request import PendingRequest


@dataclass(frozen=True)
class LaneLimits:
    """The limits of a lane. A request that exceeds max_work or cpu_s moves to the next lane.

    max_work: pixels of each image, times `EncodedImage.work_factor`. cpu_s: CPU seconds to decode all images of a
    request. max_pending: requests that may wait or run; further ones are rejected.
    """

    max_work: float
    cpu_s: float
    max_pending: float


#: Up to 4 megapixels; up to 16 megapixels, or 6.7 as a progressive JPEG of 10 scans. A third lane has the contract's
#: limits.
SMALL = LaneLimits(2**22, 0.5, math.inf)
MEDIUM = LaneLimits(2**24, 2.0, 32)
MAX_LARGE_PENDING = 8


def make_lanes(workers: int, decode_s: float) -> tuple[Lane, ...]:
    """Returns the lanes, from small to large. Large images have a single thread, which limits the memory for decoding.

    workers: threads of each other lane. decode_s: CPU seconds to decode the images of a large request.
    """
    large = LaneLimits(math.inf, decode_s, MAX_LARGE_PENDING)
    return Lane("small", SMALL, workers), Lane("medium", MEDIUM, workers), Lane("large", large, 1)


class Lane:
    """Threads that prepare requests of one size in order of arrival. A lock guards the set of requests."""

    def __init__(self, name: str, bounds: LaneLimits, workers: int) -> None:
        self.bounds = bounds
        self.executor = ThreadPoolExecutor(workers, f"prepare {name}")
        #: Requests that are queued or running, including some that have been answered since they were added.
        self._requests: set[PendingRequest[Any]] = set()
        self._name = name
        self._lock = threading.Lock()

    def enter(self, pending: PendingRequest[Any]) -> None:
        """Add a request. Raises Overloaded: there is no room."""
        with self._lock:
            count = sum(other.is_open for other in self._requests)
            if count >= self.bounds.max_pending:
                raise Overloaded(
                    f"no room for one more request with {self._name} images: {count} are waiting or running"
                )
            self._requests.add(pending)

    def leave(self, pending: PendingRequest[Any]) -> None:
        with self._lock:
            self._requests.discard(pending)
