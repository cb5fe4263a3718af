"""Waits until Triton has completed the requests that it has accepted."""

from __future__ import annotations

import time

from flux_serving.launch.urls import fetch

#: Metrics that count images.
_IMAGES = ("flux_jobs_waiting", "flux_jobs_running")
#: Metrics that count the requests that Triton has accepted, and the engine's images that are not complete.
_IN_WORK = ("nv_inference_pending_request_count", *_IMAGES)
#: Seconds between two checks. Triton refreshes its own metrics no more often.
_PAUSE_S = 1.0
#: Consecutive checks that must find no work: between two models of an ensemble, no metric counts a request.
_QUIET_LOOKS = 3


def wait_until_idle(metrics: str, timeout_s: float) -> None:
    """Return when no request is in flight, when the server no longer answers, or after timeout_s.

    metrics: host:port.
    """
    until = time.monotonic() + timeout_s
    quiet = 0
    while quiet < _QUIET_LOOKS and time.monotonic() < until:
        try:
            text = fetch(f"http://{metrics}/metrics", 5).decode()
        except OSError:
            return
        quiet = 0 if in_work(text) else quiet + 1
        if quiet < _QUIET_LOOKS:
            time.sleep(_PAUSE_S)


def images_in_progress(metrics: str, timeout_s: float) -> int | None:
    """Returns the number of images that wait or run; None if the server does not answer. metrics: host:port."""
    try:
        return int(_sum(fetch(f"http://{metrics}/metrics", timeout_s).decode(), _IMAGES))
    except OSError:
        return None


def in_work(text: str) -> float:
    """Returns the number of pending requests and unfinished images. text: metrics in Prometheus' text format."""
    return _sum(text, _IN_WORK)


def _sum(text: str, metrics: tuple[str, ...]) -> float:
    """Returns the sum of all values of these metrics.

    The labels are not needed, so the launcher does without prometheus-client, which only the gateway requires.
    """
    lines = (line for line in text.splitlines() if line.startswith(metrics))
    return sum(float(line.rpartition(" ")[2]) for line in lines)
