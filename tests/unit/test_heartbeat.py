"""Timing of the heartbeat of a model's process."""

from __future__ import annotations

import time

import pytest

import fake_triton

fake_triton.install()

from flux_serving.backend import heartbeat  # noqa: E402
from flux_serving.backend.heartbeat import Heartbeat  # noqa: E402


def beats_within(seconds: float, monkeypatch: pytest.MonkeyPatch) -> int:
    """Returns the number of heartbeats published in this time after `begin`."""
    beats: list[float] = []
    beating = Heartbeat("flux_base", "flux_base_0_0")
    monkeypatch.setattr(beating, "_beat", lambda: beats.append(time.monotonic()))
    beating.begin()
    time.sleep(seconds)
    beating.stop()
    return len(beats)


@pytest.mark.slow
def test_thread_publishes_nothing_shortly_after_initialize(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "_PAUSE_S", 0.01)
    assert beats_within(0.5, monkeypatch) == 1, "only the one of `begin` itself"
    monkeypatch.setattr(heartbeat, "_FIRST_PAUSE_S", 0.01)
    assert beats_within(0.5, monkeypatch) > 2
