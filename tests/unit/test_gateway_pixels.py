"""FLUX_GATEWAY_PIXELS limits the size of a generated image, whatever determines it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from asking import gateway
from flux_client import AsyncFluxClient, RetryPolicy, Unreachable
from flux_client.fake import AsyncFakeTransport
from flux_client.fake_server import DEFAULT_SIDE
from flux_client.request import Request
from flux_client.transport import Answer
from flux_gateway.server_monitor import ServerMonitor
from flux_gateway.settings import Settings

TEXT = {"prompt": "red apple", "num_inference_steps": 1}


def answers(pixels: int, *asked: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        async with gateway(settings=Settings(pixels=pixels)) as caller:
            return [await caller.post(path, **how) for path, how in asked]

    return asyncio.run(ask())


def statuses(pixels: int, *asked: dict[str, Any], path: str = "/generate") -> list[int]:
    return [answer.status_code for answer in answers(pixels, *((path, {"json": {**TEXT, **each}}) for each in asked))]


def test_one_requested_side_is_limited_with_the_checkpoints_other_side() -> None:
    twice = 2 * DEFAULT_SIDE
    limit = DEFAULT_SIDE * twice
    fits = [{"height": twice}, {"width": twice}, {"height": twice, "width": DEFAULT_SIDE}, {}]
    too_large = [{"height": twice + 16}, {"width": twice + 16}, {"height": twice, "width": DEFAULT_SIDE + 16}]
    assert statuses(limit, *fits, *too_large) == [200] * 4 + [422] * 3


def test_a_native_size_above_the_limit_requires_a_size_in_each_request() -> None:
    assert statuses(DEFAULT_SIDE**2 - 1, {}, {"height": 16}, {"height": 16, "width": 16}) == [422, 200, 200]
    ((answer,)) = answers(DEFAULT_SIDE**2 - 1, ("/generate", {"json": TEXT}))
    assert f"{DEFAULT_SIDE}x{DEFAULT_SIDE}" in answer.json()["error"]
    assert "height" in answer.json()["error"]


def test_null_and_numeric_text_are_limited() -> None:
    limit = DEFAULT_SIDE**2
    wrong = [
        {"height": str(2 * DEFAULT_SIDE)},
        {"height": 2 * DEFAULT_SIDE, "width": None},
        {"height": f"{2 * DEFAULT_SIDE}.0", "width": ""},
    ]
    assert statuses(limit, *wrong[:2], {"height": None}) == [422, 422, 200]
    (form,) = answers(limit, ("/generate/upload", {"data": {**TEXT, **wrong[2]}}))
    assert form.status_code == 422


def test_jobs_and_openais_endpoints_have_the_same_limit() -> None:
    limit, large = DEFAULT_SIDE**2, 2 * DEFAULT_SIDE
    job, auto, square, none = answers(
        limit,
        ("/v1/jobs", {"json": {**TEXT, "width": large}}),
        ("/v1/images/generations", {"json": {**TEXT, "size": "auto"}}),
        ("/v1/images/generations", {"json": {**TEXT, "size": f"{DEFAULT_SIDE}x{large}"}}),
        ("/v1/images/generations", {"json": TEXT}),
    )
    assert [job.status_code, auto.status_code, square.status_code, none.status_code] == [422, 200, 422, 200]
    assert job.json()["error"]["param"] == "width"
    assert square.json()["error"]["param"] == "size"
    (auto,) = answers(limit - 1, ("/v1/images/generations", {"json": {**TEXT, "size": "auto"}}))
    assert (auto.status_code, auto.json()["error"]["param"]) == (422, "size")


@pytest.mark.slow
def test_the_limit_names_the_setting() -> None:
    (answer,) = answers(DEFAULT_SIDE**2, ("/generate", {"json": {**TEXT, "height": 1024}}))
    assert answer.json()["error"] == (
        f"height: {DEFAULT_SIDE}x1024 has {DEFAULT_SIDE * 1024} pixels, expected at most {DEFAULT_SIDE**2}"
    )


class OfAnotherCheckpoint(AsyncFakeTransport):
    """A server that does not report its size at first, and has another checkpoint after a restart."""

    side = 32
    failures = 1

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        if self.failures:
            self.failures -= 1
            raise Unreachable("gone")
        side = self.side
        sized = {name: value for name, value in request.inputs.items() if name not in ("HEIGHT", "WIDTH")}
        for name in ("HEIGHT", "WIDTH"):
            sized[name] = request.inputs.get(name, self._array(side))
        return await super().infer(Request(request.model, sized, request.outputs), timeout_s, request_id)

    @staticmethod
    def _array(side: int) -> Any:
        return np.array([[side]], dtype=np.int32)


def test_the_native_size_is_read_from_the_server_and_again_after_an_outage() -> None:
    async def run() -> None:
        transport = OfAnotherCheckpoint()
        monitor = ServerMonitor(AsyncFluxClient(transport=transport, retry=RetryPolicy(attempts=1)))
        assert monitor.native_side == 1024
        await monitor.look()
        assert monitor.native_side == 1024
        await monitor.look()
        assert monitor.native_side == 32
        transport.side, transport.fake.ready = 48, False
        for _ in range(3):
            await monitor.look()
        transport.fake.ready = True
        await monitor.look()
        assert monitor.native_side == 48

    asyncio.run(run())
