"""The real gateway while one client attacks it in every way and another sends normal requests."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from flux_gateway.bodies import COPIES
from flux_gateway.conversions import CONVERSIONS
from flux_gateway.parsing import PARSING_COPIES
from flux_gateway.settings import Settings
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from flux_tools.metrics import read_samples
from flux_tools.sizing.gateway import gateway_memory_bytes
from hostile_bodies import hostile_bodies
from images import encoded
from raw import wait_until_healthy
from test_rest_life import Pulse, resident, wait_until_idle

pytestmark = pytest.mark.live

MIB = 2**20
LIMITS = {
    "BODY_BYTES": 8 * MIB,
    "IN_FLIGHT_BYTES": 384 * MIB,
    "IN_FLIGHT_BYTES_PER_CALLER": 320 * MIB,
    "CONCURRENCY_PER_CALLER": 48,
    "RESULT_BYTES": 16 * MIB,
    "RESULT_BYTES_PER_CALLER": 16 * MIB,
    "BODY_TIMEOUT_S": 5,
    "CONNECTIONS": 400,
    "CONNECTIONS_PER_CALLER": 256,
}
#: Concurrent bodies of one attack, slow bodies, and silent connections.
FAST, SLOW, SILENT = 64, 24, 100
#: Acceptable statuses of an attack. 0: the connection was closed.
TOLD = {0, 200, 400, 408, 413, 422, 429, 503}


def environment(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in LIMITS.items():
        monkeypatch.setenv(f"FLUX_GATEWAY_{name}", str(value))
    return Settings.from_environment({f"FLUX_GATEWAY_{name}": str(value) for name, value in LIMITS.items()})


class Attack:
    """Attacks from 127.0.0.1 and counts the statuses."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.told: Counter[int] = Counter()
        self._url, self._port = gateway.url, port
        self._bodies = list(hostile_bodies(7 * MIB).values())

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as http:
            await asyncio.gather(
                *(self._repeat(until, self._fast, http, number) for number in range(FAST)),
                *(self._repeat(until, self._slow, http, number) for number in range(SLOW)),
                *(self._repeat(until, self._silent, http, number) for number in range(SILENT)),
            )

    async def _repeat(
        self,
        until: float,
        act: Callable[[httpx.AsyncClient, int], Awaitable[int]],
        http: httpx.AsyncClient,
        number: int,
    ) -> None:
        while time.monotonic() < until:
            try:
                told = await act(http, number)
            except (httpx.TransportError, OSError):
                told = 0
            self.told[told] += 1
            number += 1

    async def _fast(self, http: httpx.AsyncClient, number: int) -> int:
        content, headers, _ = self._bodies[number % len(self._bodies)]
        path = "/generate/upload" if "multipart" in headers["content-type"] else "/generate"
        return (await http.post(self._url + path, content=content, headers=headers)).status_code

    async def _slow(self, http: httpx.AsyncClient, number: int) -> int:
        """Send a byte of a body from time to time until the response arrives."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        fields = ("Host: localhost", "Content-Type: application/json", "Content-Length: 1000", "", "")
        writer.write("\r\n".join(("POST /generate HTTP/1.1", *fields)).encode())
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            writer.write(b" ")
            await asyncio.wait((answer,), timeout=0.1)
        writer.close()
        return int(answer.result().split()[1])

    async def _silent(self, http: httpx.AsyncClient, number: int) -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"POST /generate HTTP/1.1\r\nHost: a"[: number % 30])
        await asyncio.sleep(1)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return 0


async def honest(url: str, ended: asyncio.Event) -> list[str]:
    """Request images from another address until the attack has ended. Returns each outcome."""
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    outcomes = []
    async with httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as http:
        while not ended.is_set():
            seed = len(outcomes)
            body = {"mode": "text2img", "prompt": "red apple", "height": 64, "width": 64, "num_inference_steps": 4}
            answer = await http.post("/generate", json=body | {"seed": seed})
            if answer.status_code != 200 or not answer.json()["success"]:
                outcomes.append(answer.text[:200])
                continue
            image = Image.open(io.BytesIO(base64.b64decode(answer.json()["image_base64"])))
            recipe = json.loads(image.getexif()[ExifTags.Base.ImageDescription])
            outcomes.append("right" if recipe["seed"] == seed else "wrong")
    return outcomes


def peak(pid: int) -> int:
    """Returns the peak resident memory in bytes."""
    (found,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found) * 1024


def test_attack_uses_bounded_memory_and_does_not_affect_others(
    demo_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = environment(monkeypatch)
    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as output, Gateway(demo_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        attack, pulse, before = Attack(gateway, port), Pulse(gateway.url), resident(gateway.pid)

        async def run() -> list[str]:
            ended = asyncio.Event()
            asking = asyncio.create_task(honest(gateway.url, ended))
            await attack.run(8)
            ended.set()
            return await asking

        idle = Pulse(gateway.url)
        idle.start()
        time.sleep(2)
        idle.end()
        pulse.start()
        outcomes = asyncio.run(run())
        pulse.end()
        wait_until_idle(gateway)
        after, most = resident(gateway.pid), peak(gateway.pid)
        samples = read_samples(f"{gateway.url}/metrics")
    idle_p99, p99 = (np.percentile([seconds for _, seconds in each.answers], 99) for each in (idle, pulse))
    told = {
        "attack": dict(attack.told),
        "honest": dict(Counter(outcomes)),
        "health": len(pulse.answers),
        "health p99 ms, idle and attacked": (round(1000 * idle_p99), round(1000 * p99)),
        "RSS before, peak, after, bound MB": [
            round(size / 1e6) for size in (before, most, after, gateway_memory_bytes(settings))
        ],
    }
    print(told)
    assert set(attack.told) <= TOLD, told
    assert attack.told[408] > 0, told
    assert attack.told[429] > 0, told
    assert {*outcomes} == {"right"}, told
    assert {status for status, _ in pulse.answers} == {200}
    # A machine that is busy with other work is slow even without an attack.
    assert p99 < max(1.0, 10 * idle_p99), told
    assert before < most < gateway_memory_bytes(settings), told
    assert [sample.value for sample in samples if sample.name == "flux_gateway_in_flight_bytes"] == [0]


def test_image_in_flight_uses_at_most_its_reserved_memory(demo_server: TritonServer, tmp_path: Path) -> None:
    noise = Image.effect_noise((2048, 2048), 100).convert("RGB")
    content = json.dumps(
        {
            "mode": "redux",
            "input_image": base64.b64encode(encoded(noise)).decode(),
            "height": 64,
            "width": 64,
            "num_inference_steps": 4,
        }
    ).encode()
    count = 8

    async def ask(url: str) -> list[bool]:
        async with httpx.AsyncClient(base_url=url, timeout=100) as http:
            headers = {"content-type": "application/json"}
            asking = (http.post("/generate", content=content, headers=headers) for _ in range(count))
            return [answer.json()["success"] for answer in await asyncio.gather(*asking)]

    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as output, Gateway(demo_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        before = resident(gateway.pid)
        assert asyncio.run(ask(gateway.url)) == [True] * count
        grown = peak(gateway.pid) - before
    reserved = COPIES * count * len(content) + PARSING_COPIES * (CONVERSIONS + 1) * len(content)
    print({"body MB": len(content) / 1e6, "grown MB": grown / 1e6, "reserved MB": reserved / 1e6})
    assert grown < reserved


def test_forwarded_headers_of_untrusted_client_are_ignored(gateway: Gateway) -> None:
    """uvicorn itself would trust this machine's header."""
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "X-Forwarded-For": "192.0.2.7"}
    body = {"prompt": "red apple", "size": "64x64", "num_inference_steps": 4, "response_format": "url"}
    answer = httpx.post(f"{gateway.url}/v1/images/generations", json=body, headers=forwarded, timeout=60).json()
    assert answer["data"][0]["url"].startswith(f"{gateway.url}/v1/images/files/")
    job = httpx.post(f"{gateway.url}/v1/jobs", json={"prompt": "a", "num_inference_steps": 1}, headers=forwarded)
    # The job belongs to the address that connected, whatever address it forwards.
    url = f"{gateway.url}{job.headers['location']}"
    assert httpx.get(url).status_code == 200
    assert httpx.delete(url, headers={"X-Forwarded-For": "192.0.2.8"}).status_code == 200
