"""Two real Tritons behind one client: requests go to the one with less work, and to the one that answers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from conftest import DEMO, start_server
from flux_client import AsyncFluxClient, FluxClient
from flux_serving.launch.server import TritonServer
from images import drawn_image
from raw import engine_metrics

pytestmark = pytest.mark.live

SHORT = {"height": 64, "width": 64, "num_inference_steps": 2}
LONG = {"height": 256, "width": 256, "num_inference_steps": 100, "num_images": 8}
#: Short requests of each client.
COUNT = 12


@pytest.fixture(scope="module")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The server that the tests keep busy and stop."""
    yield from start_server(DEMO, tmp_path_factory.mktemp("other-server") / "triton.log")


@contextmanager
def busy(server: TritonServer) -> Iterator[None]:
    """Run long jobs on this server, not through the client under test."""
    with FluxClient(server.grpc_url) as client, ExitStack() as streams:
        for seed in range(2):
            stream = streams.enter_context(client.stream(drawn_image(1), seed=seed, **LONG))
            next(stream)
        yield


def done(server: TritonServer) -> float:
    """Returns the number of generated images, after Triton has updated its metrics."""
    time.sleep(2.5)
    return engine_metrics(server)["flux_jobs_total:done"]


def ask(url: str) -> None:
    """The first request finds no load readings; the others run once there are some."""
    with FluxClient(url) as client:
        for number in range(COUNT):
            client.redux(drawn_image(number), seed=number, **SHORT)
            time.sleep(1.5 if number == 0 else 0.1)


def ask_async(url: str) -> None:
    async def run() -> None:
        async with AsyncFluxClient(url) as client:
            for number in range(COUNT):
                await client.redux(drawn_image(number), seed=number, **SHORT)
                await asyncio.sleep(1.5 if number == 0 else 0.1)

    asyncio.run(run())


@pytest.mark.parametrize("asks", [ask, ask_async])
def test_short_requests_go_to_the_idle_server_while_the_other_is_busy(
    demo_server: TritonServer, other_server: TritonServer, asks: Callable[[str], None]
) -> None:
    before = done(demo_server)
    with busy(other_server):
        asks(f"{other_server.grpc_url},{demo_server.grpc_url}")
    assert done(demo_server) - before >= COUNT * 0.75


def test_calls_succeed_while_one_server_is_stopped_and_it_works_again_afterwards(
    demo_server: TritonServer, other_server: TritonServer
) -> None:
    """After SIGSTOP the server accepts connections but does not respond. Its open calls wait until their deadline."""
    with FluxClient(f"{other_server.grpc_url},{demo_server.grpc_url}") as client:
        client.redux(drawn_image(0), **SHORT)
        time.sleep(1.5)
        os.kill(other_server.pid, signal.SIGSTOP)
        try:
            # Wait until the client has noticed.
            time.sleep(2.0)
            for number in range(COUNT):
                client.redux(drawn_image(number), seed=number, timeout_s=60, **SHORT)
        finally:
            os.kill(other_server.pid, signal.SIGCONT)
        before = done(other_server)
        limit = time.monotonic() + 60
        while done(other_server) == before:
            assert time.monotonic() < limit, "it got no request after it had come back"
            for number in range(4):
                client.redux(drawn_image(number), seed=number, **SHORT)
