"""The server that is measured, and whether it can be."""

from __future__ import annotations

from dataclasses import dataclass

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from flux_contract.models import FLUX_BASE, FLUX_REDUX, FLUX_STREAM
from flux_serving.launch.urls import fetch

_TIMEOUT_S = 30.0


class NoServer(Exception):
    """The server cannot be measured, or not any more; the message names its door, and what came of asking there."""


@dataclass(frozen=True)
class Server:
    """grpc, http: host:port; http None: not measured. adapter: a LoRA that it has, None: there is none.

    key: opens its restricted APIs, shared memory's among them.
    """

    grpc: str
    http: str | None
    metrics_url: str
    adapter: str | None = None
    key: str = ""


def check(server: Server) -> None:
    """Raises NoServer: a door of it is shut, or a model is not ready."""
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
        raise NoServer(f"{server.metrics_url}: no metrics of Triton")


def fetched(url: str) -> str:
    """Without a proxy. Raises NoServer."""
    try:
        return fetch(url, _TIMEOUT_S).decode()
    except (OSError, ValueError) as error:  # ValueError: no URL
        raise NoServer(f"{url}: {type(error).__name__}: {error!s:.200}") from error
