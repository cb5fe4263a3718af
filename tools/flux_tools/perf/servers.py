"""The server to measure, and checks that it can be measured."""

from __future__ import annotations

from dataclasses import dataclass

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from flux_contract.models import FLUX_BASE, FLUX_REDUX, FLUX_STREAM
from flux_serving.launch.urls import fetch

_TIMEOUT_S = 30.0


class NoServer(Exception):
    """The server cannot be measured (any more). The message has the address and the error."""


@dataclass(frozen=True)
class Server:
    """Addresses of a server.

    grpc, http: host:port; http None: not measured. adapter: name of a LoRA on the server, or None. key: for its
    restricted APIs, such as shared memory.
    """

    grpc: str
    http: str | None
    metrics_url: str
    adapter: str | None = None
    key: str = ""


def check(server: Server) -> None:
    """Check that the server can be measured. Raises NoServer: it does not respond, or a model is not ready."""
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        for model in (FLUX_REDUX, FLUX_STREAM, FLUX_BASE):
            try:
                is_ready = client.is_model_ready(model.name, client_timeout=_TIMEOUT_S)
            except InferenceServerException as error:
                raise NoServer(f"gRPC at {server.grpc}: {error.message()}") from error
            if not is_ready:
                raise NoServer(f"gRPC at {server.grpc}: {model.name} is not ready")
    if server.http is not None:
        fetched(f"http://{server.http}/v2/health/ready")
    if "nv_inference_request_success" not in fetched(server.metrics_url):
        raise NoServer(f"{server.metrics_url}: no Triton metrics at this address")


def fetched(url: str) -> str:
    """Return the text at the URL, without a proxy. Raises NoServer."""
    try:
        return fetch(url, _TIMEOUT_S).decode()
    except (OSError, ValueError) as error:  # ValueError: not a URL
        raise NoServer(f"{url}: {type(error).__name__}: {error!s:.200}") from error
