"""Jobs, with a fake Triton server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from asking import Endless, gateway
from flux_client import GenerationFailed, Overloaded, Progress
from flux_client.fake import AsyncFakeTransport
from flux_gateway.jobs.job import GenerationJob
from flux_gateway.jobs.runner import JobRunner
from flux_gateway.keys import new_key
from flux_gateway.results import ResultStore
from flux_gateway.settings import Settings
from images import encoded

TEXT = {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 4}


def run(ask: Callable[[httpx.AsyncClient], Awaitable[None]], *how: Any) -> None:
    async def asked() -> None:
        async with gateway(*how) as caller:
            await ask(caller)

    asyncio.run(asked())


async def events_of(caller: httpx.AsyncClient, job: str) -> list[tuple[str, dict[str, Any]]]:
    text = (await caller.get(f"/v1/jobs/{job}/events")).text
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


def image_of(image: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))


def test_a_job_is_started_watched_and_read() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        begun = await caller.post("/v1/jobs", json={**TEXT, "n": 2, "seed": 5, "height": 64, "width": 96})
        job = begun.json()
        assert (begun.status_code, job["id"]) == (202, begun.headers["x-request-id"])
        assert begun.headers["location"] == f"/v1/jobs/{job['id']}"
        events = await events_of(caller, job["id"])
        assert {kind for kind, _ in events[:-1]} == {"image"}
        assert events[-1] == ("done", {"id": job["id"], "status": "succeeded", "error": None})
        found = (await caller.get(f"/v1/jobs/{job['id']}")).json()
        assert (found["status"], found["mode"]) == ("succeeded", "text2img")
        assert found["expires_at"] > found["created_at"]
        assert [image["seed"] for image in found["images"]] == [5, 6]
        assert [image_of(image).size for image in found["images"]] == [(96, 64)] * 2
        assert found["images"] == list({data["index"]: data for kind, data in events[:-1]}.values())

    run(ask)


def test_a_job_accepts_a_form_with_files() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        form = {"mode": "redux", "output_format": "webp", "previews": "false"}
        begun = await caller.post("/v1/jobs", data=form, files={"input_image": encoded(Image.new("RGB", (32, 32)))})
        events = await events_of(caller, begun.json()["id"])
        assert not any(data["preview_b64_json"] for kind, data in events if kind == "image")
        assert image_of(events[-2][1]).format == "WEBP"

    run(ask)


def test_cancelling_a_job_cancels_it_at_triton_and_deletes_it() -> None:
    transport = Endless()

    async def ask(caller: httpx.AsyncClient) -> None:
        job = (await caller.post("/v1/jobs", json=TEXT)).json()["id"]
        watching = asyncio.create_task(events_of(caller, job))
        await asyncio.sleep(0.05)
        ended = (await caller.delete(f"/v1/jobs/{job}")).json()
        assert ended["status"] == "cancelled"
        assert (await watching)[-1] == ("done", {"id": job, "status": "cancelled", "error": None})
        assert [stream.cancelled for stream in transport.fake.streams] == [True]
        assert (await caller.get(f"/v1/jobs/{job}")).status_code == 404
        assert "flux_gateway_in_work 0.0" in (await caller.get("/metrics")).text

    run(ask, transport)


def test_stopping_the_gateway_cancels_all_jobs() -> None:
    transport = Endless()

    async def ask(caller: httpx.AsyncClient) -> None:
        await caller.post("/v1/jobs", json=TEXT)

    run(ask, transport)
    assert [stream.cancelled for stream in transport.fake.streams] == [True]


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [({"n": 9}, 422, "n"), ({"mode": "redux"}, 422, "input_image"), ({"mode": "video"}, 422, "mode")],
)
def test_an_invalid_request_does_not_create_a_job(given: dict[str, Any], status: int, param: str) -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        response = await caller.post("/v1/jobs", json={**TEXT, **given})
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)

    run(ask, AsyncFakeTransport(AssertionError("Triton was called")))  # type: ignore[arg-type]


def test_a_full_server_does_not_create_a_job() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        response = await caller.post("/v1/jobs", json=TEXT)
        assert (response.status_code, "retry-after" in response.headers) == (503, True)
        assert "flux_gateway_jobs 0.0" in (await caller.get("/metrics")).text

    run(ask, AsyncFakeTransport(Overloaded("full")))


def test_running_jobs_count_as_requests_of_their_caller() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        answers = [(await caller.post("/v1/jobs", json=TEXT)).status_code for _ in range(3)]
        assert answers == [202, 202, 429]

    run(ask, Endless(), Settings(concurrency_per_caller=2))


def test_a_job_is_only_visible_to_its_caller(tmp_path: Path) -> None:
    (ann, kept_of_ann), (bob, kept_of_bob) = new_key("ann"), new_key("bob")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([kept_of_ann, kept_of_bob]))

    others: list[dict[str, str]] = [{}, {"X-API-Key": "no"}, {"X-API-Key": bob}]

    async def ask(caller: httpx.AsyncClient) -> None:
        begun = await caller.post("/v1/jobs", json=TEXT, headers={"X-API-Key": ann})
        path = f"/v1/jobs/{begun.json()['id']}"
        for method, each in (("GET", path), ("GET", f"{path}/events"), ("DELETE", path)):
            statuses = [(await caller.request(method, each, headers=headers)).status_code for headers in others]
            assert statuses == [401, 401, 404]
        assert (await caller.get(path, headers={"X-API-Key": ann})).status_code == 200

    run(ask, None, Settings(keys_file=file))


def test_a_failed_job_reports_its_error_to_watchers_and_readers() -> None:
    async def run_it() -> None:
        async def events() -> Any:
            raise GenerationFailed("no luck")
            yield

        job = GenerationJob("a", "redux", 1)
        results = ResultStore(Settings().result_limits)
        (room,) = results.reserve("ann", 1, 1000)
        JobRunner(results).start(job, room, Progress(0, 0, 4), events())
        told = [image async for image in job.changes()]
        assert {image.steps for image in told if image} == {4}
        assert job.status == "failed"
        assert job.error is not None
        assert "GenerationFailed" in job.error.words

    asyncio.run(run_it())
