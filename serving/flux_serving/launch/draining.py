"""Waiting until a Triton that nobody asks any more has made what it was asked for."""

from __future__ import annotations

import time

from flux_serving.launch.urls import fetch

#: What counts requests that Triton has taken, and images of the engine that are not done.
_IN_WORK = ("nv_inference_pending_request_count", "flux_jobs_waiting", "flux_jobs_running")
#: Seconds between two looks; Triton refreshes its own numbers no more often.
_PAUSE_S = 1.0
#: Looks in a row that must find nothing: between two models of an ensemble a request is nowhere.
_QUIET_LOOKS = 3


def wait_until_idle(metrics: str, timeout_s: float) -> None:
    """Return when nothing is in work, when the server no longer answers, or after timeout_s. metrics: host:port."""
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


def in_work(text: str) -> float:
    """Returns the sum of the metrics in _IN_WORK. text: in Prometheus' format.

    It needs no labels, so the launcher runs without prometheus-client, which only the gateway requires.
    """
    lines = (line for line in text.splitlines() if line.startswith(_IN_WORK))
    return sum(float(line.rpartition(" ")[2]) for line in lines)
