"""Hostile bodies with a fake Triton server, and limits on connections."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from asking import Endless, gateway, running
from flux_client import AsyncFluxClient, RetryPolicy
from flux_client.fake import AsyncFakeTransport
from flux_gateway import bodies, parsing, sending
from flux_gateway.admission import Admission, Memory
from flux_gateway.app import make_app
from flux_gateway.bodies import COPIES
from flux_gateway.connections import Connections, bounded_protocol
from flux_gateway.conversions import INLINE_BYTES
from flux_gateway.generation_service import ANSWER_BYTES_PER_PIXEL
from flux_gateway.keys import Caller, new_key
from flux_gateway.parsing import PARSING_COPIES
from flux_gateway.refusals import Refusal
from flux_gateway.settings import Settings
from flux_serving.launch.processes import free_ports
from hostile_bodies import hostile_bodies
from images import encoded

pytestmark = pytest.mark.slow

MIB = 2**20


@asynccontextmanager
async def application(settings: Settings, ready: bool = True) -> AsyncIterator[Any]:
    client = AsyncFluxClient(transport=AsyncFakeTransport(ready=ready), retry=RetryPolicy(attempts=1))
    app = make_app(settings, client)
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0.05)
        yield app


async def post(
    app: Any, receive: Callable[[], Any], path: str = "/generate", **headers: str
) -> tuple[int, dict[str, str]]:
    """Send one POST through ASGI, with a body from the test. Returns the status and the headers."""
    fields = {"host": "localhost", "content-type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    started: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.append(message)

    await app(scope, receive, send)
    return started[0]["status"], {name.decode(): value.decode() for name, value in started[0]["headers"]}


async def never_read() -> dict[str, Any]:
    raise AssertionError("the body was read")


def body_in(*pieces: bytes, pause_s: float = 0.0) -> Callable[[], Any]:
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_s)
        if not left:
            return {"type": "http.disconnect"}
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    return receive


def test_requests_are_rejected_before_their_body_is_read(tmp_path: Path) -> None:
    key, kept = new_key("ann")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([kept | {"per_minute": 1}]))
    large = str(65 * MIB)

    async def asked() -> None:
        async with application(Settings()) as app:
            assert (await post(app, never_read, content_length=large))[0] == 413
            assert (await post(app, never_read, origin="http://evil.example"))[0] == 403
            assert (await post(app, never_read, host="evil.example"))[0] == 421
            assert (await post(app, never_read, content_type="text/plain"))[0] == 415
        async with application(Settings(keys_file=file)) as app:
            assert (await post(app, never_read))[0] == 401
            assert (await post(app, body_in(b"{"), x_api_key=key))[0] == 400
            status, headers = await post(app, never_read, x_api_key=key)
            assert (status, headers["retry-after"]) == (429, "60")
        async with application(Settings(), ready=False) as app:
            assert (await post(app, never_read))[0] == 503
        for settings, expected in ((Settings(concurrency_per_caller=1), 429), (Settings(concurrency=1), 503)):
            async with application(settings) as app:
                waiting = asyncio.Event()
                first = asyncio.create_task(post(app, lambda event=waiting: event.wait()))  # type: ignore[misc]
                await asyncio.sleep(0.02)
                status, headers = await post(app, never_read)
                assert (status, int(headers["retry-after"]) > 0) == (expected, True)
                first.cancel()
                with suppress(asyncio.CancelledError):
                    await first

    asyncio.run(asked())


def test_bodies_in_flight_share_limited_memory() -> None:
    """The second body exceeds the limit during the first, announced or not, and is accepted after it."""

    async def asked() -> None:
        settings = Settings(in_flight_bytes=10_000, in_flight_bytes_per_caller=8_000)
        async with application(settings) as app:
            gate = asyncio.Event()

            async def first() -> dict[str, Any]:
                await gate.wait()
                return {"type": "http.request", "body": b"{" + b" " * 999, "more_body": False}

            held = asyncio.create_task(post(app, first, content_length="1000"))
            await asyncio.sleep(0.02)
            status, headers = await post(app, never_read, content_length="1100")
            assert (status, int(headers["retry-after"]) > 0) == (429, True)
            assert (await post(app, body_in(b" " * 700, b" " * 700)))[0] == 429
            gate.set()
            assert (await held)[0] == 400
            assert (await post(app, body_in(b" " * 1100), content_length="1100"))[0] == 400

    asyncio.run(asked())


def test_one_caller_cannot_use_all_memory() -> None:
    admission = Admission(8, 8, memory=Memory(100, 60))
    ann, bob = Caller("ann"), Caller("bob")
    with admission.admitted(ann) as first, admission.admitted(bob) as second:
        first.reserve(60)
        with pytest.raises(Refusal) as share:
            first.reserve(1)
        second.reserve(40)
        with pytest.raises(Refusal) as full:
            second.reserve(1)
        assert (share.value.status, full.value.status) == (429, 503)
        # A job's generation continues after its request.
        with first.held():
            assert (admission.running, admission.bytes_in_flight) == (2, 100)
        assert admission.running == 2
    assert (admission.running, admission.bytes_in_flight) == (0, 0)


def test_memory_for_responses_is_reserved_before_the_generation() -> None:
    pixels = 8 * 64 * 96

    async def asked() -> list[int]:
        settings = Settings(in_flight_bytes_per_caller=ANSWER_BYTES_PER_PIXEL * pixels + 4000)
        async with gateway(settings=settings) as caller:
            body = {"prompt": "a", "n": 8}
            return [
                (await caller.post("/v1/images/generations", json={**body, "size": size})).status_code
                for size in ("64x96", "96x96", "64x96")
            ]

    assert asyncio.run(asked()) == [200, 429, 200]


def test_a_slow_body_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked() -> None:
        pieces = [b" "] * 1000
        async with application(Settings(body_timeout_s=0.3)) as app:
            started = time.monotonic()
            assert (await post(app, body_in(*pieces, pause_s=0.02)))[0] == 408
            assert 0.2 < time.monotonic() - started < 5
        monkeypatch.setattr(bodies, "STALL_S", 0.2)
        async with application(Settings()) as app:
            assert (await post(app, body_in(*pieces, pause_s=60)))[0] == 408

    asyncio.run(asked())


def test_a_client_that_disconnects_during_its_body_frees_its_slot() -> None:
    async def asked() -> str:
        async with gateway() as caller:
            app = caller._transport.app  # type: ignore[attr-defined]
            receive = body_in(b"{", b"")

            async def leaving() -> dict[str, Any]:
                message: dict[str, Any] = await receive()
                return {"type": "http.disconnect"} if message.get("body") == b"" else message

            for path in ("/generate", "/generate/upload", "/v1/jobs", "/v1/images/edits"):
                receive = body_in(b"{", b"")
                assert (await post(app, leaving, path))[0] == 499
            return (await caller.get("/metrics")).text

    lines = asyncio.run(asked()).splitlines()
    assert {"flux_gateway_in_work 0.0", "flux_gateway_in_flight_bytes 0.0"} <= {*lines}


def test_a_hostile_body_uses_limited_memory_and_is_rejected() -> None:
    size = 2 * MIB

    async def asked() -> dict[str, str]:
        wrong = {}
        async with gateway() as caller:
            for name, (content, headers, expected) in hostile_bodies(size).items():
                tracemalloc.start()
                try:
                    started = time.monotonic()
                    answer = await caller.post("/generate", content=content, headers=headers)
                    seconds = time.monotonic() - started
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                copies = (peak - 4 * MIB) / len(content)
                is_right = answer.status_code in expected and copies < COPIES + PARSING_COPIES and seconds < 20
                if not is_right or answer.json()["success"] or len(answer.text) > 4000:
                    wrong[name] = f"{answer.status_code}, {copies:.1f} copies, {seconds:.1f} s: {answer.text[:200]}"
        return wrong

    assert asyncio.run(asked()) == {}


def test_the_maximum_number_of_escapes_uses_the_reserved_memory() -> None:
    body = b"prompt=" + b"%41" * parsing.MAX_ESCAPES
    tracemalloc.start()
    try:
        ((name, value),) = parsing.urlencoded_items(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (name, len(value)) == ("prompt", parsing.MAX_ESCAPES)
    assert peak < parsing.MAX_ESCAPES * parsing.ESCAPE_BYTES


def test_a_form_is_parsed_without_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    image = encoded(Image.new("RGB", (32, 32))) + b"\0" * (3 * MIB)

    async def asked() -> int:
        async with gateway() as caller:
            files = {"input_image": image}
            return (await caller.post("/generate/upload", data={"mode": "redux"}, files=files)).status_code

    assert asyncio.run(asked()) == 200


def test_a_large_body_is_parsed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    original = parsing.json_value

    def noting(text: bytes) -> Any:
        names.append(threading.current_thread().name)
        return original(text)

    monkeypatch.setattr(parsing, "json_value", noting)

    async def asked() -> None:
        async with gateway() as caller:
            for count in (10, INLINE_BYTES):
                await caller.post("/generate", json={"prompt": "a", "zz": "a" * count})

    asyncio.run(asked())
    assert [name.startswith("conversion") for name in names] == [False, True]


def test_a_client_that_stops_reading_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "STALL_S", 0.2)
    monkeypatch.setattr(sending, "PIECE_BYTES", 1000)
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * 5500})

    async def reading(message: dict[str, Any]) -> None:
        sent.append(len(message.get("body", b"")))

    async def stalling(message: dict[str, Any]) -> None:
        await reading(message)
        if len(sent) == 3:
            await asyncio.sleep(60)

    async def asked(send: Any) -> None:
        await sending.Sending(app)({"type": "http"}, never_read, send)  # type: ignore[arg-type]

    asyncio.run(asked(reading))
    assert sent == [0, *[1000] * 5, 500]
    sent.clear()
    asyncio.run(asked(stalling))
    assert sent == [0, 1000, 1000]


@asynccontextmanager
async def listening(most: int, most_each: int, app: Any = None) -> AsyncIterator[int]:
    """Run a real server with limited connections. Yields its port. app: by default, it reads a body and returns 200."""

    async def read_and_answer(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    (port,) = free_ports(1)
    protocol = bounded_protocol(Connections(most, most_each, lambda address: False, head_s=0.3))
    config = uvicorn.Config(
        app or read_and_answer, port=port, http=protocol, ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X-Header: a\r\n" * 20_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n" + b"a" * 100_000,
        b"\x00" * 100_000,
    ],
)
def test_rejects_invalid_http_without_a_traceback(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def asked() -> None:
        async with listening(10, 10) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
                await asyncio.wait_for(reader.read(), 10)
            writer.close()

    asyncio.run(asked())
    assert [record for record in caplog.records if record.exc_info or record.name == "asyncio"] == []


def test_an_invalid_chunk_after_the_response_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def asked() -> None:
        async with listening(10, 10, app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert b"413" in await reader.readuntil(b"\r\n\r\n")
            with suppress(ConnectionError):
                writer.write(b"none\r\n")
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    asyncio.run(asked())
    assert [record for record in caplog.records if record.exc_info or record.name == "asyncio"] == []


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT"])
def test_an_idle_connection_is_closed(sent: bytes) -> None:
    async def asked() -> None:
        async with listening(10, 10) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            # A connection reset is also acceptable.
            with suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 10)
            writer.close()

    asyncio.run(asked())


@pytest.mark.parametrize(("size", "status"), [(1, 400), (64, 200), (1000, 200)])
def test_rejects_a_body_in_tiny_chunks(size: int, status: int) -> None:
    """Each chunk uses time on the event loop."""

    async def asked() -> None:
        async with listening(10, 10) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = f"{size:x}\r\n".encode() + b"a" * size + b"\r\n"
            writer.write(chunk * (300_000 // len(chunk)) + b"0\r\n\r\n")
            line = await asyncio.wait_for(reader.readline(), 20)
            assert int(line.split()[1]) == status
            writer.close()

    asyncio.run(asked())


@pytest.mark.parametrize(("most", "most_each"), [(4, 100), (100, 4)])
def test_connections_above_the_limit_are_503_with_retry_after(most: int, most_each: int) -> None:
    async def asked() -> None:
        async with listening(most, most_each) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["success"] is False
            for _, each in (*held, (None, writer)):
                each.close()
            until = time.monotonic() + 10
            while True:
                try:
                    async with httpx.AsyncClient() as http:
                        status = (await http.get(f"http://127.0.0.1:{port}/")).status_code
                except httpx.TransportError:
                    status = 0
                if status == 200:
                    return
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    asyncio.run(asked())


def test_a_job_has_a_limited_number_of_watchers() -> None:
    async def asked() -> None:
        async with running(Settings(), transport=Endless()) as http:
            job = (await http.post("/v1/jobs", json={"prompt": "a"})).json()["id"]

            async def watch(path: str) -> int:
                # In this process, a response arrives only as a whole, so a pending request counts as a watcher.
                with suppress(asyncio.TimeoutError):
                    return (await asyncio.wait_for(http.get(path), 0.5)).status_code
                return 0

            statuses = await asyncio.gather(*(watch(f"/v1/jobs/{job}/events") for _ in range(10)))
            assert sorted(statuses) == [0] * 8 + [429] * 2
            assert await watch(f"/v1/jobs/{job}/events") == 0

    asyncio.run(asked())
