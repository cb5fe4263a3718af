"""Clients of several servers over real gRPC on loopback. The servers speak Triton's protocol without Triton."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from test_client_transports import IMAGE, ONCE, GrpcDoor, listening, nobody, say_nothing

from flux_client import (
    AsyncFluxClient,
    Cancelled,
    DeadlineExceeded,
    FluxClient,
    NotConnected,
    Overloaded,
    addresses,
    server_pool,
)
from flux_client.addresses import Addresses
from flux_client.balanced_transport import BalancedTransport

pytestmark = pytest.mark.slow

IDLE, BUSY, FULL = [(0.0, 0, 64)], [(60.0, 60, 8)], [(9.0, 64, 0)]


class Caller:
    """Calls one client from one thread, synchronously or in an event loop."""

    def __init__(self, kind, url, **options):
        self.kind = kind
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.client = AsyncFluxClient(url, **options) if self.loop else FluxClient(url, **options)

    def redux(self, **options):
        return self._result(self.client.redux(IMAGE, **options))

    def stream(self):
        async def collected():
            return [event async for event in self.client.stream(IMAGE)]

        return self._result(collected()) if self.loop else list(self.client.stream(IMAGE))

    def wait_until_ready(self):
        self._result(self.client.wait_until_ready(10))

    def wait(self, seconds):
        """Keep the event loop running."""
        self._result(asyncio.sleep(seconds)) if self.loop else time.sleep(seconds)

    def wait_until(self, condition, timeout_s=20.0):
        limit = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < limit, "it did not happen in time"
            self.wait(0.02)

    def close(self):
        self._result(self.client.close())
        if self.loop:
            self.loop.close()

    def _result(self, value):
        return self.loop.run_until_complete(value) if self.loop else value


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Returns a function that creates a caller of a url. The fixture closes it."""
    with ExitStack() as stack:

        def make(url, **options):
            caller = Caller(request.param, url, **options)
            stack.callback(caller.close)
            return caller

        yield make


@contextmanager
def servers(*loads):
    with ExitStack() as stack:
        doors = []
        for load in loads:
            door = GrpcDoor()
            door.load = load
            door.url = stack.enter_context(door.open())
            doors.append(door)
        yield doors


def url_of(doors):
    return ",".join(door.url for door in doors)


def read(caller, *doors):
    """Wait until each server has been read and the client has the reading."""
    caller.redux()
    caller.wait_until(lambda: all(door.readings for door in doors))
    caller.wait(0.1)
    for door in doors:
        door.requests.clear()


def test_requests_and_streams_go_to_the_server_with_less_work(call):
    with servers(BUSY, IDLE) as (busy, idle):
        caller = call(url_of([busy, idle]))
        read(caller, busy, idle)
        for _ in range(5):
            assert caller.redux()
            assert caller.stream()
        assert (len(busy.requests), len(idle.requests)) == (0, 10)


def test_a_burst_is_not_sent_to_one_server(call):
    """Requests in flight count as load before a reading includes them."""
    with servers(IDLE, IDLE, IDLE) as doors:
        caller = call(url_of(doors))
        read(caller, *doors)
        for door in doors:
            door.pause_s = 0.5

        async def burst():
            await asyncio.gather(*(caller.client.redux(IMAGE) for _ in range(12)))

        if caller.kind == "async":
            caller._result(burst())
        else:
            threads = [threading.Thread(target=caller.redux) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert all(2 <= len(door.requests) <= 6 for door in doors)


def test_a_full_server_gets_no_requests_while_another_has_room(call):
    with servers(FULL, BUSY) as (full, busy):
        caller = call(url_of([full, busy]))
        read(caller, full, busy)
        for _ in range(5):
            caller.redux()
        assert (len(full.requests), len(busy.requests)) == (0, 5)


def test_servers_without_flux_status_take_turns_and_are_read_once(call):
    with servers(None, None) as (first, second):
        caller = call(url_of([first, second]))
        for _ in range(6):
            caller.redux()
            caller.wait(0.25)
        assert (len(first.requests), len(second.requests)) == (3, 3)
        assert (first.readings, second.readings) == (1, 1)


def test_servers_are_read_once_a_second_until_the_client_closes(call):
    with servers(IDLE, IDLE) as (first, second):
        caller = call(url_of([first, second]))
        for _ in range(15):
            caller.redux()
            caller.wait(0.1)
        assert 1 <= first.readings <= 4
        assert 1 <= second.readings <= 4
        caller._result(caller.client.close())
        readings = first.readings
        time.sleep(1.3)
        assert first.readings == readings


def test_a_client_of_one_address_reads_no_load(call):
    with servers(IDLE) as (only,):
        caller = call(only.url)
        caller.redux()
        caller.wait(0.5)
        assert only.readings == 0


def test_a_retry_after_a_failure_goes_to_another_server(call):
    with servers(IDLE) as (alive,):
        caller = call(f"{nobody()},{alive.url}")
        started = time.monotonic()
        for _ in range(8):
            assert caller.redux(timeout_s=10.0)
        assert time.monotonic() - started < 10
        assert len(alive.requests) == 8


@pytest.mark.parametrize("refusal", [Overloaded, Cancelled])
def test_a_rejected_request_goes_to_another_server_and_its_server_is_left_out_briefly(call, refusal):
    with servers(None, None) as (refusing, willing):
        refusing.refusal = refusal("flux_base: 64 requests wait")
        caller = call(url_of([refusing, willing]))
        for _ in range(6):
            assert caller.redux()
            assert caller.stream()
        assert len(willing.requests) == 12
        refusing.refusal = None
        refusing.requests.clear()
        caller.wait(server_pool.TICK_S + 0.3)
        for _ in range(4):
            caller.redux()
        assert refusing.requests


def test_a_server_that_hangs_is_left_out(call):
    """The server accepts connections and never responds, like a stopped process."""
    with servers(IDLE) as (alive,), listening(say_nothing) as (hung, _):
        caller = call(f"{hung},{alive.url}", retry=ONCE)
        for _ in range(2):  # One of them goes to the hanging server.
            try:
                caller.redux(timeout_s=2.0)
            except DeadlineExceeded:
                break
        for _ in range(8):
            assert caller.redux(timeout_s=2.0)
            caller.wait(0.2)


def test_a_recovered_server_gets_requests_again(call):
    with servers(IDLE) as (staying,):
        returning = GrpcDoor()
        returning.load = IDLE
        with returning.open() as url:
            caller = call(f"{staying.url},{url}")
            read(caller, staying, returning)
        for _ in range(4):
            assert caller.redux()
        returning.readings = 0
        with returning.open(int(url.rpartition(":")[2])):

            def asked_again():
                caller.redux()
                return bool(returning.requests)

            returning.requests.clear()
            caller.wait_until(asked_again, 30.0)


@pytest.mark.parametrize(
    "code",
    [
        "import flux_client, sys; client = flux_client.FluxClient(sys.argv[1]); client.redux(b'image')",
        "import asyncio, flux_client, sys\n"
        "async def run():\n"
        "    client = flux_client.AsyncFluxClient(sys.argv[1])\n"
        "    await client.redux(b'image')\n"
        "asyncio.run(run())",
    ],
    ids=["sync", "async"],
)
def test_python_exits_during_a_reading(code):
    """The client is not closed, and one server never responds."""
    with servers(IDLE) as (alive,), listening(say_nothing) as (hung, _):
        command = [sys.executable, "-W", "error", "-c", code, f"{alive.url},{hung}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_without_a_server_the_error_names_one(call):
    first, second = nobody(), nobody()
    caller = call(f"{first},{second}", retry=ONCE)
    with pytest.raises(NotConnected, match=f"({first}|{second}): "):
        caller.redux()


def test_wait_until_ready_returns_when_one_server_is_ready(call):
    with servers(IDLE) as (alive,):
        call(f"{nobody()},{alive.url}").wait_until_ready()


def test_wait_until_ready_does_not_depend_on_the_least_loaded_server(call):
    with servers(BUSY, IDLE) as (ready, loading):
        loading.ready = False
        caller = call(f"{ready.url},{loading.url}")
        read(caller, ready, loading)
        caller.wait_until_ready()


def test_the_addresses_of_a_name_are_resolved_again(call, monkeypatch):
    monkeypatch.setattr(server_pool, "RESOLVE_INTERVAL_S", 0.3)
    found = patched_names(monkeypatch, "127.0.0.1")
    with servers(IDLE, IDLE) as (staying, leaving), ExitStack() as stack:
        coming = GrpcDoor()
        port = int(leaving.url.rpartition(":")[2])
        stack.enter_context(coming.open(port, host="127.0.0.2"))
        caller = call(f"{staying.url},flux.test:{port}")

        def all_asked_but(gone, *doors):
            for door in (gone, *doors):
                door.requests.clear()
            for _ in range(4):
                caller.redux()
            return not gone.requests and all(door.requests for door in doors)

        caller.wait_until(lambda: all_asked_but(coming, staying, leaving))
        found[:] = ["127.0.0.2"]
        caller.wait_until(lambda: all_asked_but(leaving, staying, coming))


def test_a_name_is_called_before_its_addresses_are_resolved(monkeypatch):
    patched_names(monkeypatch, "127.0.0.1", "127.0.0.2")
    with servers(IDLE) as (first,), ExitStack() as stack:
        port = int(first.url.rpartition(":")[2])
        second = GrpcDoor()
        stack.enter_context(second.open(port, host="127.0.0.2"))
        with FluxClient(transport=BalancedTransport(Addresses([f"localhost:{port}"]))) as client:
            limit = time.monotonic() + 20
            while not second.requests and time.monotonic() < limit:
                client.redux(IMAGE)
        assert first.requests
        assert second.requests


def patched_names(monkeypatch, *found):
    """Resolve every name to these addresses. Returns the list of addresses, which the test may change."""
    known = list(found)

    def getaddrinfo(name, port, *_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return known


def test_a_name_that_stops_resolving_keeps_its_addresses(monkeypatch):
    answers = [["10.0.0.1", "10.0.0.2"], None, []]

    def getaddrinfo(name, port, *_):
        if (found := answers.pop(0)) is None:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    several = Addresses(["flux.test:8001"])
    assert several.first() == ["flux.test:8001"]
    assert several.resolve() == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert several.label("10.0.0.1:8001") == "flux.test:8001 (10.0.0.1:8001)"
    assert several.resolve() == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert several.resolve() == ["flux.test:8001"]
