"""HEAD on every GET route, and OpenAI's list of models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from asking import Endless, gateway, started_app
from flux_client import AsyncFluxClient, RetryPolicy
from flux_client.fake import AsyncFakeTransport
from flux_contract.modes import BY_NAME
from flux_gateway.keys import new_key
from flux_gateway.settings import Settings

TEXT = {"prompt": "red apple", "num_inference_steps": 1}
#: Headers that differ between requests.
CHANGING = {"x-request-id", "date"}


def run(ask: Callable[[httpx.AsyncClient], Awaitable[None]], transport: AsyncFakeTransport | None = None) -> None:
    async def asked() -> None:
        async with gateway(transport) as caller:
            await ask(caller)

    asyncio.run(asked())


def headers_of(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in CHANGING}


async def assert_head_is_get_without_body(caller: httpx.AsyncClient, path: str, **how: Any) -> None:
    by_get, by_head = await caller.get(path, **how), await caller.head(path, **how)
    assert (by_head.status_code, by_head.content) == (by_get.status_code, b""), path
    assert headers_of(by_head) == headers_of(by_get), path
    assert by_head.headers["x-request-id"] != by_get.headers["x-request-id"]


def test_head_returns_the_headers_of_get_on_every_route() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        url = (await caller.post("/v1/images/generations", json={**TEXT, "response_format": "url"})).json()
        job = (await caller.post("/v1/jobs", json=TEXT)).json()["id"]
        await caller.get(f"/v1/jobs/{job}/events")
        fixed = ["/", "/health", "/models", "/status", "/loras", "/docs", "/openapi.json", "/page/main.js"]
        models = ["/v1/models", "/v1/models/flux1-dev", "/v1/models/other"]
        made = [url["data"][0]["url"], f"/v1/jobs/{job}", f"/v1/jobs/{job}/events"]
        missing = ["/nothing", "/v1/nothing", "/v1/jobs/nothing", "/v1/images/files/nothing", "/page/nothing.js"]
        for path in [*fixed, *models, *made, *missing]:
            await assert_head_is_get_without_body(caller, path)
        await assert_head_is_get_without_body(caller, "/", headers={"Accept": "text/html"})
        metrics = await caller.head("/metrics")
        assert (metrics.status_code, metrics.content) == (200, b"")
        image = await caller.head(made[0])
        assert image.headers["content-type"] == "image/png"
        assert int(image.headers["content-length"]) == len((await caller.get(made[0])).content)

    run(ask)


def test_every_get_route_is_tested() -> None:
    """Add a new route to the test above, unless a similar path is already tested."""

    async def routes() -> set[str]:
        client = AsyncFluxClient(transport=AsyncFakeTransport(), retry=RetryPolicy(attempts=1))
        async with started_app(Settings(), client) as app:
            schema = app.openapi()["paths"]
            return {path for path, methods in schema.items() if "get" in methods}

    assert asyncio.run(routes()) == {
        "/",
        "/health",
        "/loras",
        "/metrics",
        "/models",
        "/status",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/models",
        "/v1/models/{model_id}",
    }


def test_head_on_a_post_route_is_405() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        for path in ("/generate", "/v1/images/generations", "/v1/jobs"):
            answer = await caller.head(path)
            assert (answer.status_code, answer.content, answer.headers["allow"]) == (405, b"", "POST")

    run(ask)


def test_head_on_a_running_jobs_events_returns_at_once() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        job = (await caller.post("/v1/jobs", json=TEXT)).json()["id"]
        answer = await asyncio.wait_for(caller.head(f"/v1/jobs/{job}/events"), 5)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await caller.get(f"/v1/jobs/{job}")).json()["status"] == "running"

    run(ask, Endless())


def test_head_is_counted_by_route_and_allowed_by_cors() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        await caller.head("/v1/jobs/nothing")
        metrics = (await caller.get("/metrics")).text
        assert 'flux_gateway_requests_total{method="HEAD",path="/v1/jobs/{job_id}",status="404"} 1.0' in metrics

    run(ask)


# /v1/models


def models_of(transport: AsyncFakeTransport) -> list[Any]:
    async def asked() -> list[Any]:
        async with gateway(transport) as http:
            url = str(http.base_url.join("/v1"))
            client = openai.AsyncOpenAI(api_key="any", base_url=url, http_client=http, max_retries=0)
            found = [model async for model in client.models.list()]
            for model in found:
                assert await client.models.retrieve(model.id) == model
            with pytest.raises(openai.NotFoundError) as caught:
                await client.models.retrieve("other/model")
            assert caught.value.code == "model_not_found"
            return found

    return asyncio.run(asked())


class Serving(AsyncFakeTransport):
    """A fake server with only some modes."""

    def __init__(self, *modes: str) -> None:
        super().__init__(ready=bool(modes))
        self._models = {"flux_stream", *(BY_NAME[mode].ensemble.name for mode in modes)}

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        return model in self._models and await super().is_ready(model, timeout_s)


@pytest.mark.parametrize(
    ("modes", "ids"),
    [
        (("redux", "img2img", "text2img", "canny"), ["flux1-redux-dev", "flux1-dev"]),
        (("redux",), ["flux1-redux-dev"]),
        (("text2img",), ["flux1-dev"]),
        (("canny",), []),
        ((), []),
    ],
)
def test_models_are_those_that_the_images_endpoints_can_serve(modes: tuple[str, ...], ids: list[str]) -> None:
    found = models_of(Serving(*modes))
    assert sorted(model.id for model in found) == sorted(ids)
    assert {(model.object, model.owned_by) for model in found} <= {("model", "flux-triton")}
    assert all(model.created > 1_700_000_000 for model in found)


def test_the_list_has_openais_format_and_its_ids_are_accepted_as_model() -> None:
    async def ask(caller: httpx.AsyncClient) -> None:
        answer = (await caller.get("/v1/models")).json()
        assert (answer.keys(), answer["object"]) == ({"object", "data"}, "list")
        for model in answer["data"]:
            assert model.keys() == {"id", "object", "created", "owned_by"}
            body = {**TEXT, "model": model["id"]}
            assert (await caller.post("/v1/images/generations", json=body)).status_code == 200

    run(ask)


def test_with_keys_the_list_requires_one(tmp_path: Path) -> None:
    key, kept = new_key("ann")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([kept]))

    async def ask() -> None:
        async with gateway(None, Settings(keys_file=file)) as caller:
            for path in ("/v1/models", "/v1/models/flux1-dev"):
                assert (await caller.get(path)).status_code == 401
                assert (await caller.head(path)).status_code == 401
                headers = {"Authorization": f"Bearer {key}"}
                assert (await caller.get(path, headers=headers)).status_code == 200

    asyncio.run(ask())
