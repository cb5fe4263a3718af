"""A client's text never changes the kind of its error: text that quotes other errors is still an invalid request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import pytest

from flux_client import InvalidRequest
from flux_client.grpc_transport import GrpcTransport
from flux_client.http_transport import HttpTransport
from flux_client.request import Request
from flux_contract.codes import CODES
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded

pytestmark = pytest.mark.live

IMAGE = encoded(drawn_image(1))
PATIENCE_S = 30.0
#: Messages of other errors of Triton, gRPC, proxies and the models.
HOSTILE = [
    "is stopping",
    "Server is stopping, scheduler for model has stopped accepting new inference requests",
    "Server not ready",
    "Request for unknown model: 'flux_redux' has no available versions",
    "failed to connect to all addresses",
    "Socket closed",
    "missing required input(s)",
    "unexpected deadlock, at least one output is not set while no more ensemble steps can be made",
    "CUDA error: an illegal memory access was encountered",
    "StatusCode.UNAVAILABLE",
    *(f"x ({code})" for code in sorted(set(CODES.values()))),
    "x' (UNAVAILABLE)",
    "\n(UNAVAILABLE)",
    "flux_base: no room for 1 more image (UNAVAILABLE)",
    "in ensemble 'flux_redux', Server not ready",
    "ü 画 \N{PILE OF POO}",
]
#: Inputs whose text the error quotes. A prompt is rejected for its length.
TEXTS = ("LORA", "OUTPUT_FORMAT", "IMAGE", "IMAGE_FIT", "IMAGE_BLEND", "PROMPT", "PREVIEW_METHOD", "PROGRESS_ADDRESS")


def text(value: str | bytes) -> np.ndarray:
    return np.array([[value.encode() if isinstance(value, str) else value]], dtype=object)


def inputs_with(name: str, value: str) -> dict[str, np.ndarray]:
    value = value + " " * 5000 if name == "PROMPT" else value
    steps = {"NUM_INFERENCE_STEPS": np.array([[1]], np.int32)}
    return {"IMAGE": text(IMAGE), **steps, name: text(value)}


@pytest.fixture(scope="module", params=["grpc", "http"])
def transport(request: pytest.FixtureRequest, demo_server: TritonServer) -> Iterator[Any]:
    is_grpc = request.param == "grpc"
    opened = GrpcTransport(demo_server.grpc_url) if is_grpc else HttpTransport(demo_server.http_url)
    with closing(opened):
        yield opened


def refused(ask: Any, *given: Any) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ask(*given)
    assert type(caught.value) is InvalidRequest, f"{caught.value!r}"


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_text_in_call_is_invalid_request(transport: Any, name: str) -> None:
    for hostile in HOSTILE:
        request = Request("flux_redux", inputs_with(name, hostile), ("OUTPUT_IMAGE", "OUTPUT_SEED"))
        refused(transport.infer, request, PATIENCE_S, f"a] {hostile}"[:60])


@pytest.mark.parametrize("name", [*TEXTS, "MODE", "CANCEL"])
def test_hostile_text_in_stream_is_invalid_request(demo_server: TritonServer, name: str) -> None:
    def ask(transport: GrpcTransport, hostile: str) -> None:
        given = {"CANCEL": text(hostile)} if name == "CANCEL" else inputs_with(name, hostile)
        request = Request("flux_stream", given, ("OUTPUT_IMAGE", "OUTPUT_SEED"))
        answers = transport.stream(request, PATIENCE_S, f"a] {hostile}"[:60])
        while True:
            next(answers)

    with closing(GrpcTransport(demo_server.grpc_url)) as transport:
        for hostile in HOSTILE:
            refused(ask, transport, hostile)


def test_hostile_text_over_rest_is_client_error(gateway: Gateway) -> None:
    bodies = {
        "/generate": (
            lambda hostile: {"prompt": "a disc", "loras": [{"name": hostile}]},
            lambda hostile: {"mode": "redux", "input_image": hostile},
            lambda hostile: {"prompt": "a disc", "mode": hostile},
            lambda hostile: {"prompt": "a disc", "model_id": hostile},
            lambda hostile: {"prompt": hostile + " " * 5000},
        ),
        "/v1/images/generations": (
            lambda hostile: {"prompt": "a disc", "output_format": hostile},
            lambda hostile: {"prompt": "a disc", "size": hostile},
            lambda hostile: {"prompt": hostile + " " * 5000},
        ),
    }
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        for path, makers in bodies.items():
            for make in makers:
                for hostile in HOSTILE:
                    answer = client.post(path, json=make(hostile))
                    assert answer.status_code in (400, 422), (path, hostile, answer.text)
