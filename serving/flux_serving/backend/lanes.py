"""Lanes of a request queue: by how long their images take to decode, so that short work overtakes long work."""

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
    """Of a lane. A request that needs more goes to the next one.

    max_work: pixels of each image, times `EncodedImage.work_factor`. cpu_s: of decoding all images of a request.
    max_pending: requests that may wait or be in work; more are refused.
    """

    max_work: float
    cpu_s: float
    max_pending: float


#: 4 megapixels; 16 megapixels, or 6.7 as a progressive JPEG of 10 scans; and up to the contract's limits.
SMALL = LaneLimits(2**22, 0.5, math.inf)
MEDIUM = LaneLimits(2**24, 2.0, 32)
MAX_LARGE_PENDING = 8


def make_lanes(workers: int, decode_s: float) -> tuple[Lane, ...]:
    """From small to large. One thread for large images bounds the memory that decoding takes.

    workers: threads of each of the others. decode_s: CPU seconds of a request's large images.
    """
    large = LaneLimits(math.inf, decode_s, MAX_LARGE_PENDING)
    return Lane("small", SMALL, workers), Lane("medium", MEDIUM, workers), Lane("large", large, 1)


class Lane:
    """Threads that prepare requests of one size, first come, first served. A lock guards the set of requests."""

    def __init__(self, name: str, bounds: LaneLimits, workers: int) -> None:
        self.bounds = bounds
        self.executor = ThreadPoolExecutor(workers, f"prepare {name}")
        #: Waiting or in work; some may have been answered meanwhile.
        self._requests: set[PendingRequest[Any]] = set()
        self._name = name
        self._lock = threading.Lock()

    def enter(self, pending: PendingRequest[Any]) -> None:
        """Raises Overloaded: there is no room."""
        with self._lock:
            count = sum(other.is_open for other in self._requests)
            if count >= self.bounds.max_pending:
                raise Overloaded(f"no room for one more request with {self._name} images: {count} wait or are in work")
            self._requests.add(pending)

    def leave(self, pending: PendingRequest[Any]) -> None:
        with self._lock:
            self._requests.discard(pending)
