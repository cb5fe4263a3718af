"""The client library against the real server, and its fake server compared with the real one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_client import AsyncFluxClient, DeadlineExceeded, FluxClient, ImageResult, InvalidRequest
from flux_client.fake import FakeTransport
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded

pytestmark = pytest.mark.live


def url_of(server: TritonServer, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else server.http_url


def assert_alike(ones: list[ImageResult], others: list[ImageResult]) -> None:
    """Equal to one 8-bit step: images that share a denoising step are rounded in another order."""
    assert [variation.seed for variation in ones] == [variation.seed for variation in others]
    for one, other in zip(ones, others, strict=True):
        difference = np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_variations_include_their_seeds(demo_server: TritonServer, protocol: Any) -> None:
    with FluxClient(url_of(demo_server, protocol), protocol=protocol) as client:
        client.wait_until_ready(30)
        variations = client.redux(drawn_image(1), num_images=2, seed=9, num_inference_steps=2)
    assert [variation.seed for variation in variations] == [9, 10]
    assert [variation.image.size for variation in variations] == [(64, 64)] * 2
    assert variations[0].data != variations[1].data


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_async_client_returns_same_images_as_sync_client(demo_server: TritonServer, protocol: Any) -> None:
    async def call() -> list[list[ImageResult]]:
        async with AsyncFluxClient(url_of(demo_server, protocol), protocol=protocol) as client:
            await client.wait_until_ready(30)
            calls = (client.redux(drawn_image(1), seed=seed, num_inference_steps=2) for seed in range(3))
            return await asyncio.gather(*calls)

    together = asyncio.run(call())
    with FluxClient(url_of(demo_server, protocol), protocol=protocol) as client:
        for seed, variations in enumerate(together):
            assert_alike(variations, client.redux(drawn_image(1), seed=seed, num_inference_steps=2))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_server_error_becomes_client_exception(demo_server: TritonServer, protocol: Any) -> None:
    with (
        FluxClient(url_of(demo_server, protocol), protocol=protocol) as client,
        pytest.raises(InvalidRequest, match=r"^flux_prior_redux: IMAGE\[0\]: not an image"),
    ):
        client.redux(b"not an image")


def test_a_call_ends_at_its_deadline(demo_server: TritonServer) -> None:
    with FluxClient(demo_server.grpc_url) as client, pytest.raises(DeadlineExceeded):
        client.redux(drawn_image(1), height=512, width=512, num_inference_steps=100, timeout_s=1)


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several": {"num_images": 3, "seed": 5},
    "different size": {"height": 96, "width": 64},
    "jpeg": {"output_format": "jpeg"},
    "in the background": {"priority": -1},
    "a size between": {"height": 100},
    "too large": {"width": 8192},
    "no steps": {"num_inference_steps": 0},
    "a wrong format": {"output_format": "tga"},
}


def outcome(client: FluxClient, images: Any, knobs: dict[str, Any]) -> Any:
    try:
        variations = client.redux(images, **knobs)
    except InvalidRequest:
        return InvalidRequest
    return [(v.seed, v.format, v.image.size, v.image.mode) for v in variations]


@pytest.mark.parametrize("name", REQUESTS)
def test_fake_server_responds_like_real_server(demo_server: TritonServer, name: str) -> None:
    knobs = {"num_inference_steps": 1} | REQUESTS[name]
    with FluxClient(demo_server.grpc_url) as real, FluxClient(transport=FakeTransport()) as fake:
        for images in (drawn_image(1), [drawn_image(1), drawn_image(2)], b"not an image"):
            assert outcome(fake, images, knobs) == outcome(real, images, knobs)


def test_the_command_line_writes_the_variations(demo_server: TritonServer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes(encoded(drawn_image(len(name))))
    subprocess.run(
        [
            *(sys.executable, "-m", "flux_client.cli", "redux", "one.png", "two.png", "-n", "2", "-o", "out"),
            *("--url", demo_server.grpc_url, "--steps", "2", "--seed", "3"),
        ],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["one-redux-3.png", "one-redux-4.png", "two-redux-3.png", "two-redux-4.png"]
