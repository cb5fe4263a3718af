"""REST callers get messages of our models, and none of Triton's."""

from __future__ import annotations

import json
import logging

import pytest
from test_gateway import ask

from flux_client import GenerationFailed, InvalidRequest, NotConnected, Overloaded, Unreachable
from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError
from flux_gateway.server_messages import for_callers

REGION = "/flux-triton-0a1b2c3d_triton_python_backend_shm_region_1f6b0c8e"
OURS = [
    InvalidRequest("flux_base: NUM_INFERENCE_STEPS=0, expected 1..100"),
    InvalidRequest("flux_base: LORA='a/b', expected one of: greyscale"),
    Overloaded("flux_base: no room for 8 more images: 64 are waiting or running (limit 64)"),
    GenerationFailed("flux_base: the latents are not finite"),
    GenerationFailed("flux_prior_redux: unexpected RuntimeError; the server's log has the details"),
    GenerationFailed("flux_stream: the stream ended without an image"),
]
TRITONS: list[FluxError] = [
    GenerationFailed(f"Failed to increase the shared memory pool size for key '{REGION}' to 67108864 bytes."),
    GenerationFailed(f"flux_stream: Failed to open the shared memory object {REGION}: No such file or directory"),
    GenerationFailed("Stub process 'flux_base_0_0' is not healthy."),
    GenerationFailed("flux_base: expected number of inputs between 3 and 36 but got 1 inputs for model 'flux_base'."),
    InvalidRequest(f"Unable to find shared memory region: '{REGION}'"),
    InvalidRequest("Request for unknown model: 'flux_stream' is not found"),
    InvalidRequest("failed to stat file /opt/flux-triton/model_repository/flux_base/1/model.py"),
    Overloaded("Request for unknown model: 'flux_redux' has no available versions"),
    Unreachable("flux-triton-headless:8001: the connection broke before the response arrived: Socket closed"),
    NotConnected("localhost:8001: failed to connect to all addresses; last error: ipv4:127.0.0.1:8001"),
    Cancelled("the call was cancelled"),
]


@pytest.mark.parametrize("error", OURS, ids=str)
def test_messages_of_our_models_reach_the_caller(error: FluxError) -> None:
    assert for_callers(error, "an-id") is error


def test_a_timeout_is_reported_without_the_servers_address() -> None:
    told = for_callers(
        DeadlineExceeded("no response from flux-triton-headless:8001,other:8001 within 600.0 s"), "an-id"
    )
    assert type(told) is DeadlineExceeded
    assert str(told) == "no response from the model server within 600.0 s"


@pytest.mark.parametrize("error", TRITONS, ids=str)
def test_messages_of_triton_are_only_logged(error: FluxError, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        told = for_callers(error, "an-id")
    assert type(told) is type(error)
    assert str(told).startswith("the model server ")
    assert not [word for word in ("flux", "/", "8001", "shm", "Stub") if word in str(told)]
    assert json.loads(caplog.messages[0]) == {"id": "an-id", "error": type(error).__name__, "message": str(error)}


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
@pytest.mark.parametrize("error", TRITONS[:-1], ids=str)
def test_no_response_of_the_gateway_quotes_triton(path: str, error: FluxError) -> None:
    answer = ask(path, json={"prompt": "a"}, errors=(error,) * 5)
    assert "the model server" in answer.text
    assert not [word for word in ("flux-triton", "shm", "8001", "model_repository", "Stub") if word in answer.text]
    if isinstance(error, GenerationFailed):
        assert answer.headers["X-Request-Id"] in answer.text
