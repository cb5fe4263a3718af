"""What REST callers send, against the real Triton: ready edge maps, sizes, and the ways in which an image comes."""

from __future__ import annotations

import asyncio
import base64
import io
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
HOUSE = (Path(__file__).resolve().parents[2] / "scripts/flux_demo/unseen/house-with-garden.png").read_bytes()
KNOBS: dict[str, Any] = {"num_inference_steps": 4, "seed": 5, "prompt": "blue heart"}


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_of(answer: httpx.Response) -> np.ndarray:
    body = answer.json()
    assert body["success"], body
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["image_base64"]))))


def test_control_image_is_a_ready_map_and_input_image_a_photo_unless_control_kind_says_otherwise(
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


def test_a_missing_side_counts_as_the_real_checkpoints_own(demo_server: TritonServer) -> None:
    async def ask() -> list[int]:
        app = make_app(Settings(pixels=64 * 128), AsyncFluxClient(demo_server.grpc_url))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as http,
        ):
            while (await http.get("/health")).status_code != 200:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            text = {"prompt": "a", "num_inference_steps": 1}
            sizes: list[dict[str, int]] = [{}, {"height": 128}, {"height": 144}, {"width": 144}]
            return [(await http.post("/generate", json={**text, **size})).status_code for size in sizes]

    assert asyncio.run(ask()) == [200, 200, 422, 422]
