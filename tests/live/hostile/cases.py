"""Hostile inputs: their definition, their destinations, and the check of the response."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import local
from typing import Any

import grpc
import httpx
from tritonclient.grpc import service_pb2_grpc

#: Maximum seconds until every input is answered.
PATIENCE_S = 120.0


@dataclass
class Targets:
    """The server's three protocols, with separate connections for each thread."""

    grpc_url: str
    http_url: str
    gateway_url: str
    _local: local = field(default_factory=local)
    _opened: list[Any] = field(default_factory=list)

    @property
    def triton(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        if not hasattr(self._local, "triton"):
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
            channel = grpc.insecure_channel(self.grpc_url, options)
            self._opened.append(channel)
            self._local.triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return self._local.triton

    @property
    def http(self) -> httpx.Client:
        if not hasattr(self._local, "http"):
            self._local.http = httpx.Client(
                timeout=PATIENCE_S,
                trust_env=False,
                # Shorter than the server's keep-alive, so that no connection closes while a request is sent.
                limits=httpx.Limits(keepalive_expiry=1.0),
            )
            self._opened.append(self._local.http)
        client: httpx.Client = self._local.http
        return client

    def close(self) -> None:
        for each in self._opened:
            each.close()


@dataclass(frozen=True)
class Answer:
    """A response. code: gRPC's name or HTTP's number. text: the message, or the beginning of the body."""

    code: str
    text: str = ""


@dataclass(frozen=True)
class Hostile:
    """One input. expected: the acceptable codes. what: describes the input in a failure report."""

    kind: str
    what: str
    expected: frozenset[str]
    send: Callable[[Targets], Answer]


Maker = Callable[[random.Random], Hostile]


def by_grpc(targets: Targets, request: object) -> Answer:
    try:
        targets.triton.ModelInfer(request, timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details() or "")
    return Answer("OK")


#: Triton 2.51 itself returns 500 for JSON that its front end cannot parse; no model is called.
PARSER = "500 by Triton's parser"
_PARSERS_WORDS = re.compile(
    r'^\{"error":"(Unable to parse|failed to parse the request JSON buffer|failed to get request params'
    r"|attempt to |batch size \d+ for )"
)


def by_http(targets: Targets, method: str, url: str, **options: Any) -> Answer:
    answer = targets.http.request(method, url, **options)
    if answer.status_code == 500 and _PARSERS_WORDS.match(answer.text):
        return Answer(PARSER, answer.text[:300])
    return Answer(str(answer.status_code), answer.text[:300])
