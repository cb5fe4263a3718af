"""Measures how the client shares requests while one of the servers is busy, full, stopped, draining or gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from flux_client import FAIL_OVER, FluxClient
from flux_contract.models import FLUX_BASE
from flux_serving.launch.stubs import model_processes
from flux_tools.failover.load import CallerLoad
from flux_tools.failover.replica import Replica

#: Seconds of load in each situation, and seconds before that in which the client reads the load of the servers.
LOAD_S, READ_S = 6.0, 2.0
_LONG: dict[str, Any] = {"height": 256, "width": 256, "num_inference_steps": 100, "num_images": 8}


class ServerShare(NamedTuple):
    """Result of a situation. share: share of the requests that the first server processed, 0..1."""

    situation: str
    servers: int
    requests: int
    lost: int
    share: float
    longest_s: float


@contextmanager
def _long_jobs(replica: Replica, image: bytes, images: int) -> Iterator[None]:
    """Keep the server busy with this number of images, sent directly to it."""
    with FluxClient(replica.grpc_url) as client, ExitStack() as streams:
        for seed in range(images // 8):
            streams.enter_context(client.stream(image, seed=seed, timeout_s=600, **_LONG))
        time.sleep(1.0)
        yield


@contextmanager
def _equal(replica: Replica, image: bytes) -> Iterator[None]:
    yield


@contextmanager
def _stopped(replica: Replica, image: bytes) -> Iterator[None]:
    """SIGSTOP for 5 seconds, under load."""

    def stop() -> None:
        os.kill(replica.triton_pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.kill(replica.triton_pid, signal.SIGCONT)

    timer = threading.Timer(READ_S, stop)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def _slow(replica: Replica, image: bytes) -> Iterator[None]:
    """Stop the process of flux_base for three quarters of the time."""
    (pid,) = (found.process.pid for found in model_processes(replica.triton_pid) if found.model == FLUX_BASE.name)
    ended = threading.Event()

    def pulse() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.15)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)

    pulses = threading.Thread(target=pulse)
    pulses.start()
    try:
        yield
    finally:
        ended.set()
        pulses.join()


@contextmanager
def _draining(replica: Replica, image: bytes) -> Iterator[None]:
    """SIGTERM for `scripts/serve`, under load."""
    timer = threading.Timer(READ_S, replica.stop)
    timer.start()
    try:
        yield
    finally:
        timer.join()


Situation = Callable[[Replica, bytes], AbstractContextManager[None]]

#: The last two end the server.
SITUATIONS: dict[str, Situation] = {
    "all idle": _equal,
    "busy: 16 long images": lambda replica, image: _long_jobs(replica, image, 16),
    "four times slower": _slow,
    "full": lambda replica, image: _long_jobs(replica, image, 128),
    "SIGSTOP for 5 s": _stopped,
    "SIGTERM": _draining,
    "gone": _equal,
}


def shares(replicas: Sequence[Replica], images: Sequence[bytes], callers: int) -> Iterator[ServerShare]:
    """Yield the share of the first server in each situation. replicas: running servers."""
    url = ",".join(replica.grpc_url for replica in replicas)
    others = replicas[1:]
    for name, situation in SITUATIONS.items():
        with situation(replicas[0], images[0]), CallerLoad(url, images, callers, FAIL_OVER) as load:
            time.sleep(READ_S)
            first, before = len(load.calls), _done(others)
            time.sleep(LOAD_S)
            calls, after = load.calls[first:], _done(others)
            elsewhere = (after - before) / max(1, len(calls))
        lost = sum(call.error is not None for call in load.calls)
        longest_s = max(call.seconds for call in load.calls)
        yield ServerShare(name, len(replicas), len(calls), lost, max(0.0, 1 - elsewhere), longest_s)


def _done(replicas: Sequence[Replica]) -> float:
    return sum(replica.done() for replica in replicas)
