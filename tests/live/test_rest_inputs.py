"""REST inputs against the real Triton: edge maps, sizes, and the ways to send an image."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from flux_client import AsyncFluxClient, FluxClient
from flux_gateway.app import make_app
from flux_gateway.settings import Settings
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer

pytestmark = pytest.mark.live

EDGES = (Path(__file__).resolve().parents[1] / "cases/ready-edges.png").read_bytes()
HOUSE = (Path(__file__).resolve().parents[2] / "tools/flux_tools/demo/unseen/house-with-garden.png").read_bytes()
KNOBS: dict[str, Any] = {"num_inference_steps": 4, "seed": 5, "prompt": "blue heart"}


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_of(answer: httpx.Response) -> np.ndarray:
    body = answer.json()
    assert body["success"], body
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["image_base64"]))))


def test_control_kind_overrides_default_kind_of_control_and_input_image(
    gateway: Gateway, demo_server: TritonServer
) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        expected = {
            (name, kind): client.canny(data, control_kind=kind, guidance_scale=3.5, **KNOBS)[0].image
            for name, data in (("edges", EDGES), ("house", HOUSE))
            for kind in ("photo", "edges")
        }
    asked: list[tuple[dict[str, str], tuple[str, str]]] = [
        ({"control_image": in_base64(EDGES)}, ("edges", "edges")),
        ({"control_image": in_base64(EDGES), "input_image": in_base64(HOUSE)}, ("edges", "edges")),
        ({"input_image": in_base64(HOUSE)}, ("house", "photo")),
        ({"control_image": in_base64(HOUSE), "control_kind": "photo"}, ("house", "photo")),
        ({"input_image": in_base64(EDGES), "control_kind": "edges"}, ("edges", "edges")),
    ]
    assert expected["edges", "edges"].tobytes() != expected["edges", "photo"].tobytes()
    for given, by_client in asked:
        answer = httpx.post(f"{gateway.url}/generate", json={"mode": "controlnet", **KNOBS, **given}, timeout=60)
        assert np.array_equal(image_of(answer), np.asarray(expected[by_client])), given.keys()


Caller = Callable[[str], httpx.AsyncClient]


def run(demo_server: TritonServer, settings: Settings, ask: Callable[[Caller], Awaitable[None]]) -> None:
    """Run `ask` with a function that returns a client of a gateway in this process, by address."""

    async def asked() -> None:
        app = make_app(settings, AsyncFluxClient(demo_server.grpc_url))

        def caller(address: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app, client=(address, 1234))
            return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)

        async with app.router.lifespan_context(app):
            while (await caller("127.0.0.1").get("/health")).status_code != 200:
                await asyncio.sleep(0.05)
            await ask(caller)

    asyncio.run(asked())


def test_missing_side_defaults_to_checkpoint_size(demo_server: TritonServer) -> None:
    async def ask(caller: Caller) -> None:
        async def status(**size: int) -> int:
            body = {"prompt": "a", "num_inference_steps": 1, **size}
            return (await caller("10.0.0.1").post("/generate", json=body)).status_code

        until = time.monotonic() + 30
        while await status() == 422:
            # Until the checkpoint's size is known, the gateway uses FLUX.1's, which exceeds the limit.
            assert time.monotonic() < until
            await asyncio.sleep(0.1)
        assert [await status(height=128), await status(height=144), await status(width=144)] == [200, 422, 422]

    run(demo_server, Settings(pixels=64 * 128), ask)


def test_flood_of_jobs_and_urls_affects_no_other_client(demo_server: TritonServer) -> None:
    text = {"prompt": "red apple", "num_inference_steps": 1}

    async def ask(caller: Caller) -> None:
        honest, hostile = caller("10.0.0.1"), caller("10.0.0.2")
        body = {**text, "response_format": "url", "size": "64x64"}
        job = (await honest.post("/v1/jobs", json=text)).json()["id"]
        url = (await honest.post("/v1/images/generations", json=body)).json()["data"][0]["url"]
        floods = [hostile.post("/v1/jobs", json=text) for _ in range(10)]
        floods += [hostile.post("/v1/images/generations", json=body) for _ in range(10)]
        statuses = [answer.status_code for answer in await asyncio.gather(*floods)]
        assert statuses.count(429) == 16
        await honest.get(f"/v1/jobs/{job}/events")
        assert (await honest.get(f"/v1/jobs/{job}")).json()["status"] == "succeeded"
        assert Image.open(io.BytesIO((await honest.get(url)).content)).size == (64, 64)
        assert (await honest.post("/v1/images/generations", json=body)).status_code == 200

    run(demo_server, Settings(results=8, results_per_caller=4), ask)


def test_head_and_models_over_a_real_connection(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as http:
        body = {"prompt": "red apple", "num_inference_steps": 1, "response_format": "url"}
        url = http.post("/v1/images/generations", json=body).json()["data"][0]["url"]
        for path in (url, "/health", "/v1/models", "/", "/nothing", "/generate"):
            by_head, by_get = http.head(path), http.get(path)
            assert (by_head.status_code, by_head.content) == (by_get.status_code, b"")
            assert by_head.headers["content-length"] == by_get.headers["content-length"]
        ids = {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert ids == {"flux1-dev", "flux1-redux-dev"}
