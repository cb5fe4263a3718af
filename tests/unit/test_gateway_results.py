"""Jobs and URL images are kept for the promised time and within limits, whatever other callers do."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from asking import started_app
from flux_client import AsyncFluxClient, GenerationFailed, RetryPolicy
from flux_client.fake import AsyncFakeAnswers, AsyncFakeTransport
from flux_client.request import Request
from flux_client.transport import Answer
from flux_gateway.images import max_encoded_bytes
from flux_gateway.refusals import Refusal
from flux_gateway.results import ResultLimits, ResultStore
from flux_gateway.settings import Settings
from flux_tools.metrics import parse_samples

TEXT = {"prompt": "red apple", "num_inference_steps": 1}
#: Pixels of an image of the fake server without a requested size.
SIZE = max_encoded_bytes(64, 64)

Callers = Callable[[str], httpx.AsyncClient]


def run(
    settings: Settings, ask: Callable[[Callers], Awaitable[None]], transport: AsyncFakeTransport | None = None
) -> None:
    """ask: called with a function that returns a caller by its address."""

    async def asked() -> None:
        client = AsyncFluxClient(transport=transport or AsyncFakeTransport(), retry=RetryPolicy(attempts=1))
        async with started_app(settings, client) as app:

            def caller(address: str) -> httpx.AsyncClient:
                asgi = httpx.ASGITransport(app, client=(address, 1234))
                return httpx.AsyncClient(transport=asgi, base_url="http://localhost")

            await ask(caller)

    asyncio.run(asked())


async def start_job(caller: httpx.AsyncClient, **more: Any) -> httpx.Response:
    """Returns the response after the job has ended."""
    begun = await caller.post("/v1/jobs", json={**TEXT, **more})
    if begun.status_code == 202:
        await caller.get(f"/v1/jobs/{begun.json()['id']}/events")
    return begun


async def ask_for_url(caller: httpx.AsyncClient, **more: Any) -> httpx.Response:
    return await caller.post("/v1/images/generations", json={**TEXT, "response_format": "url", **more})


async def stored_bytes(caller: httpx.AsyncClient) -> float:
    samples = parse_samples((await caller.get("/metrics")).text)
    (found,) = (sample.value for sample in samples if sample.name == "flux_gateway_result_bytes")
    return found


@pytest.mark.parametrize("flood", [start_job, ask_for_url])
@pytest.mark.parametrize("bound", ["bytes", "count"])
def test_a_flood_by_one_caller_does_not_affect_the_results_of_another(flood: Any, bound: str) -> None:
    if bound == "bytes":
        settings = Settings(result_bytes=20 * SIZE, result_bytes_per_caller=3 * SIZE)
    else:
        settings = Settings(results=6, results_per_caller=3)

    async def ask(caller: Callers) -> None:
        honest, hostile = caller("10.0.0.1"), caller("10.0.0.2")
        job = (await start_job(honest)).json()["id"]
        url = (await ask_for_url(honest)).json()["data"][0]["url"]
        statuses: list[int] = []
        while statuses.count(429) < 5 and len(statuses) < 300:
            answer = await flood(hostile, seed=-1)
            statuses.append(answer.status_code)
            assert await stored_bytes(honest) <= settings.result_bytes
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= settings.result_s
                assert "per caller" in answer.json()["error"]["message"]
        assert statuses.count(429) == 5
        assert (await honest.get(f"/v1/jobs/{job}")).json()["status"] == "succeeded"
        assert (await honest.get(url)).status_code == 200
        assert (await ask_for_url(honest)).status_code == 200

    run(settings, ask)


def test_a_full_store_rejects_all_callers_and_deletes_no_result() -> None:
    settings = Settings(results=6, results_per_caller=2)

    async def ask(caller: Callers) -> None:
        callers = [caller(f"10.0.0.{number}") for number in range(4)]
        jobs = [(each, (await start_job(each)).json()["id"]) for each in callers[:3]]
        urls = [(each, (await ask_for_url(each)).json()["data"][0]["url"]) for each in callers[:3]]
        for answer in (await start_job(callers[3]), await ask_for_url(callers[3])):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        # A request without a result to keep reserves nothing.
        assert (await callers[3].post("/v1/images/generations", json=TEXT)).status_code == 200
        assert (await callers[3].post("/generate", json=TEXT)).status_code == 200
        for each, job in jobs:
            assert (await each.get(f"/v1/jobs/{job}")).json()["status"] == "succeeded"
        assert [(await each.get(url)).status_code for each, url in urls] == [200] * 3

    run(settings, ask)


def test_deleting_jobs_and_images_frees_space() -> None:
    settings = Settings(results_per_caller=2)

    async def ask(caller: Callers) -> None:
        ann, bob = caller("10.0.0.1"), caller("10.0.0.2")
        job = f"/v1/jobs/{(await start_job(ann)).json()['id']}"
        url = (await ask_for_url(ann)).json()["data"][0]["url"]
        assert (await start_job(ann)).status_code == 429
        assert [(await bob.delete(each)).status_code for each in (job, url)] == [404, 404]
        assert (await ann.delete(job)).status_code == 200
        second = await start_job(ann)
        assert (second.status_code, (await start_job(ann)).status_code) == (202, 429)
        assert (await ann.delete(url)).status_code == 204
        assert (await ann.get(url)).status_code == 404
        assert (await ask_for_url(ann)).status_code == 200

    run(settings, ask)


def test_expired_results_free_space() -> None:
    async def ask(caller: Callers) -> None:
        ann = caller("10.0.0.1")
        job, url = (await start_job(ann)).json()["id"], (await ask_for_url(ann)).json()["data"][0]["url"]
        assert (await start_job(ann)).status_code == 429
        assert (await ann.get(url)).status_code == 200
        await asyncio.sleep(0.6)
        assert [(await ann.get(each)).status_code for each in (f"/v1/jobs/{job}", url)] == [404, 404]
        assert await stored_bytes(ann) == 0
        assert (await start_job(ann)).status_code == 202

    run(Settings(results_per_caller=2, result_s=0.5), ask)


class Held(AsyncFakeTransport):
    """A fake server that generates no image until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncFakeAnswers:
        let_go = self.let_go

        class Answers(AsyncFakeAnswers):
            told = 0

            async def __anext__(self) -> Answer:
                self.told += 1
                if self.told > 1:
                    await let_go.wait()
                return await super().__anext__()

        return Answers(self.fake.stream(request, timeout_s, request_id))


def test_a_job_reserves_its_maximum_size_and_frees_the_rest() -> None:
    settings = Settings(result_bytes_per_caller=3 * SIZE)
    transport = Held()

    async def ask(caller: Callers) -> None:
        ann = caller("10.0.0.1")
        begun = await ann.post("/v1/jobs", json={**TEXT, "n": 2})
        assert await stored_bytes(ann) == 2 * SIZE
        url = asyncio.create_task(ask_for_url(ann))
        await asyncio.sleep(0.1)
        assert await stored_bytes(ann) == 3 * SIZE
        assert (await ann.post("/v1/jobs", json=TEXT)).status_code == 429
        transport.let_go.set()
        assert (await url).status_code == 200
        await ann.get(f"/v1/jobs/{begun.json()['id']}/events")
        assert 0 < await stored_bytes(ann) < SIZE
        assert (await start_job(ann, n=2)).status_code == 202

    run(settings, ask, transport)


def test_rejected_failed_and_cancelled_requests_hold_no_space() -> None:
    transport = AsyncFakeTransport(GenerationFailed("no luck"), GenerationFailed("no luck"))

    async def ask(caller: Callers) -> None:
        ann = caller("10.0.0.1")
        assert [(await start_job(ann)).status_code, (await ask_for_url(ann)).status_code] == [500, 500]
        assert (await start_job(ann, height=60)).status_code == 400
        assert (await start_job(ann, mode="redux")).status_code == 422
        assert await stored_bytes(ann) == 0

    run(Settings(), ask, transport)


def test_a_request_above_the_callers_share_is_422() -> None:
    async def ask(caller: Callers) -> None:
        ann = caller("10.0.0.1")
        for answer in (await start_job(ann, n=4), await ask_for_url(ann, n=4)):
            assert answer.status_code == 422
            assert str(3 * SIZE) in answer.json()["error"]["message"]
        assert (await ask_for_url(ann, n=3)).status_code == 200

    run(Settings(result_bytes_per_caller=3 * SIZE), ask)

    async def ask_for_many(caller: Callers) -> None:
        answer = await ask_for_url(caller("10.0.0.1"), n=4)
        assert (answer.status_code, "4 results" in answer.json()["error"]["message"]) == (422, True)

    run(Settings(results_per_caller=3), ask_for_many)


def test_random_use_stays_within_all_limits() -> None:
    limits = ResultLimits(count=12, count_per_caller=5, bytes=1000, bytes_per_caller=400, seconds=0.02)

    async def use() -> None:
        dice = np.random.default_rng(5)
        store = ResultStore(limits)
        held: dict[str, list[Any]] = {owner: [] for owner in "abcd"}
        refused = set()
        for number in range(3000):
            owner = "abcd"[dice.integers(4)]
            action = dice.integers(5)
            if action < 3:
                try:
                    rooms = store.reserve(owner, int(dice.integers(1, 4)), int(dice.integers(1, 200)))
                except Refusal as refusal:
                    refused.add(refusal.status)
                    continue
                held[owner] += rooms
                for index, room in enumerate(rooms):
                    room.publish(f"{number}-{index}", b"")
            elif held[owner]:
                room = held[owner].pop(dice.integers(len(held[owner])))
                if action == 3:
                    room.release()
                    room.release()
                else:
                    room.keep(int(dice.integers(0, room.size + 1)))
            if number % 50 == 0:
                await asyncio.sleep(0.001)
            assert store.size <= limits.bytes
            assert store.count(bytes) <= limits.count
        assert refused == {422, 429, 503}
        for rooms in held.values():
            for room in rooms:
                room.keep(0)
        await asyncio.sleep(0.1)
        assert (store.size, store.count(bytes)) == (0, 0)
        store.close()

    asyncio.run(use())


@pytest.mark.parametrize("size", [(16, 16), (16, 4096), (256, 512)])
def test_no_encoded_image_is_larger_than_its_reservation(size: tuple[int, int]) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    arguments: tuple[tuple[str, dict[str, Any]], ...] = (
        ("png", {"compress_level": 1, "compress_type": zlib.Z_RLE}),
        ("jpeg", {"quality": 95, "subsampling": "4:4:4"}),
        ("webp", {"quality": 90}),
    )
    for name, options in arguments:
        file = io.BytesIO()
        noise.save(file, name, exif=exif, **options)
        assert len(file.getvalue()) <= max_encoded_bytes(*size), name
