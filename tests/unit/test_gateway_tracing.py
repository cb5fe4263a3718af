"""Forwarding of `traceparent` without spans, and the configuration of the endpoint for spans."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest

from flux_client import AsyncFluxClient
from flux_client.fake import AsyncFakeTransport
from flux_contract.errors import CannotStart
from flux_contract.models import FLUX_STREAM
from flux_gateway.app import make_app
from flux_gateway.settings import Settings
from flux_gateway.tracing import Tracing
from flux_serving.launch.tracing import trace_arguments, traces_url
from images import drawn_image, encoded

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
VARIABLES = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}


def forwarded_traceparent(**headers: str) -> str | None:
    """Returns the `traceparent` that the fake Triton receives."""
    transport = AsyncFakeTransport()
    app = make_app(Settings(), AsyncFluxClient(transport=transport))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    async def asked() -> httpx.Response:
        async with app.router.lifespan_context(app):
            while (await client.get("/health")).status_code != 200:
                await asyncio.sleep(0.01)
            form = {"mode": "redux", "num_inference_steps": "2", "height": "64", "width": "64"}
            image = {"input_image": encoded(drawn_image(3))}
            return await client.post("/generate/upload", data=form, files=image, headers=headers)

    answer = asyncio.run(asked())
    assert answer.json()["success"], answer.text
    (sent,) = (each for each in transport.fake.sent if each.request.model == FLUX_STREAM.name)
    return sent.request.traceparent


def test_a_traceparent_is_forwarded() -> None:
    assert forwarded_traceparent(traceparent=PARENT) == PARENT


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-abc-01"}, {"traceparent": PARENT + "\t!"}])
def test_an_invalid_traceparent_is_not_forwarded(headers: dict[str, str]) -> None:
    assert forwarded_traceparent(**headers) is None


def test_the_standard_variable_sets_the_endpoint_of_the_gateway_and_of_triton() -> None:
    url = "http://collector:4318/v1/traces"
    assert Settings.from_environment(VARIABLES).traces_url == url
    assert traces_url(VARIABLES) == url
    assert f"--trace-config=opentelemetry,url={url}" in trace_arguments(url)


def test_without_the_variable_tracing_is_disabled() -> None:
    assert Settings.from_environment({}).traces_url == ""
    assert trace_arguments(traces_url({})) == []


def test_missing_packages_for_tracing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(CannotStart, match=r"run: pip install \"flux-triton\[tracing\]\""):
        Tracing("http://collector:4318/v1/traces")


def test_without_tracing_the_sdk_is_not_imported() -> None:
    code = "import sys; from flux_gateway.app import make_app; from flux_gateway.settings import Settings\n"
    code += "make_app(Settings()); sys.exit('opentelemetry.sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
