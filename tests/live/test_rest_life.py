"""The gateway with many clients that connect and disconnect, and without Triton for a while."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import ExifTags, Image

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from raw import engine_metrics, wait_until_healthy
from witnesses import Pulse, resident

pytestmark = pytest.mark.live

CLIENTS = 50
TEXT = {"mode": "text2img", "prompt": "red apple", "height": 64, "width": 64}


class Crowd:
    """Clients that send requests in three ways; a third of them disconnect early. Each seed is used once."""

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = url
        self._seeds = iter(range(1, 10**9))
        self._random = random.Random(1)

    async def ask(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=120, limits=limits) as http:
            await asyncio.gather(*(self._one(http, number, until) for number in range(CLIENTS)))

    async def _one(self, http: httpx.AsyncClient, number: int, until: float) -> None:
        ways = (self._generate, self._stream, self._job)
        while time.monotonic() < until:
            asking = ways[self._random.randrange(3)](http, next(self._seeds))
            patience_s = self._random.uniform(0.05, 1.0) if number % 3 == 0 else None
            try:
                outcome = await asyncio.wait_for(asking, patience_s)
            except asyncio.TimeoutError:
                outcome = "hung up"
            self.outcomes[outcome] += 1

    async def _generate(self, http: httpx.AsyncClient, seed: int) -> str:
        answer = await http.post("/generate", json={**TEXT, "num_inference_steps": 4, "seed": seed})
        if answer.status_code != 200:
            return await self._refused(answer)
        return self._checked(answer.json()["image_base64"], seed)

    async def _stream(self, http: httpx.AsyncClient, seed: int) -> str:
        body = {"prompt": "red apple", "size": "64x64", "num_inference_steps": 4, "seed": seed}
        images = []
        asking = {**body, "stream": True, "partial_images": 2}
        async with http.stream("POST", "/v1/images/generations", json=asking) as answer:
            if answer.status_code != 200:
                return await self._refused(answer)
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    images.append(json.loads(line.removeprefix("data: "))["b64_json"])
        return self._checked(images[-1], seed)

    async def _job(self, http: httpx.AsyncClient, seed: int) -> str:
        begun = await http.post("/v1/jobs", json={**TEXT, "num_inference_steps": 4, "seed": seed})
        if begun.status_code != 202:
            return await self._refused(begun)
        path = f"/v1/jobs/{begun.json()['id']}"
        try:
            await http.get(f"{path}/events")
            (image,) = (await http.get(path)).json()["images"]
            return self._checked(image["b64_json"], seed)
        finally:
            await http.delete(path)

    @staticmethod
    async def _refused(answer: httpx.Response) -> str:
        await asyncio.sleep(int(answer.headers["retry-after"]))
        return "told to wait"

    @staticmethod
    def _checked(text: str, seed: int) -> str:
        """Check the client by the recipe in the image."""
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        recipe: dict[str, Any] = json.loads(image.getexif()[ExifTags.Base.ImageDescription])
        return "right" if recipe["seed"] == seed else "wrong"


def wait_until_idle(gateway: Gateway) -> None:
    until = time.monotonic() + 30
    while httpx.get(f"{gateway.url}/status").json()["requests_in_work"]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_connecting_and_disconnecting_clients_get_their_own_images(
    demo_server: TritonServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
    record_property: Any,
) -> None:
    monkeypatch.setenv("FLUX_GATEWAY_CONCURRENCY_PER_CALLER", "64")
    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as output, Gateway(demo_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        asyncio.run(Crowd(gateway.url).ask(3))
        wait_until_idle(gateway)
        before, ended_before = resident(gateway.pid), engine_metrics(demo_server)
        crowd, pulse = Crowd(gateway.url), Pulse(gateway.url)
        pulse.start()
        asyncio.run(crowd.ask(pytestconfig.getoption("--soak-seconds")))
        pulse.end()
        wait_until_idle(gateway)
        grown, ended = resident(gateway.pid) - before, engine_metrics(demo_server)
    seconds = sorted(seconds for _, seconds in pulse.answers)
    told = {
        **crowd.outcomes,
        "health p50 ms": round(1000 * seconds[len(seconds) // 2], 1),
        "health p99 ms": round(1000 * seconds[len(seconds) * 99 // 100], 1),
        "memory grown MB": round(grown / 1e6, 1),
    }
    print(told)
    assert {status for status, _ in pulse.answers} == {200}
    assert crowd.outcomes["right"] > 0
    assert crowd.outcomes["hung up"] > 0
    assert set(crowd.outcomes) <= {"right", "hung up", "told to wait"}, told
    cancelled = [name for name in ended if "cancelled" in name]
    assert sum(ended[name] for name in cancelled) > sum(ended_before[name] for name in cancelled)
    assert grown < 100e6, told


def test_reports_unreachable_triton_and_recovers(mortal_server: TritonServer, tmp_path: Path) -> None:
    def answer() -> httpx.Response:
        return httpx.post(f"{gateway.url}/generate", json={**TEXT, "num_inference_steps": 4}, timeout=60)

    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as output, Gateway(mortal_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        assert answer().json()["success"]
        mortal_server.kill()
        refused = answer()
        assert (refused.status_code, refused.json()["success"]) == (503, False)
        assert int(refused.headers["retry-after"]) > 0
        until = time.monotonic() + 30
        while (health := httpx.get(f"{gateway.url}/health", timeout=5)).status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert "not reachable" in health.json()["error"]
        with (tmp_path / "again.log").open("wb") as log, TritonServer(mortal_server.options, log) as again:
            again.wait_until_ready(180)
            wait_until_healthy(gateway)
            assert answer().json()["success"]
