from __future__ import annotations

import pytest

from flux_client import (
    Cancelled,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Unreachable,
)
from flux_client.failures import from_triton

GRPC_TABLE = [
    ("INVALID_ARGUMENT", "flux_base: HEIGHT=7", InvalidRequest),
    ("NOT_FOUND", "Request for unknown model: 'flux_redux' is not found", InvalidRequest),
    ("NOT_FOUND", "Request for unknown model: 'flux_redux' has no available versions", Overloaded),
    ("UNIMPLEMENTED", "not here", InvalidRequest),
    ("PERMISSION_DENIED", "no", InvalidRequest),
    ("UNAVAILABLE", "flux_base: 64 images wait already", Overloaded),
    ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped accepting new inference requests", Overloaded),
    ("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: Connection refused", NotConnected),
    ("UNAVAILABLE", "failed to connect to all addresses; last error: UNAVAILABLE: Socket closed", NotConnected),
    ("UNAVAILABLE", "connections to all backends failing; last error: Connection refused", NotConnected),
    ("UNAVAILABLE", "DNS resolution failed for nowhere:8001", NotConnected),
    ("UNAVAILABLE", "Socket closed", Unreachable),
    ("UNAVAILABLE", "recvmsg:Connection reset by peer", Unreachable),
    ("UNAVAILABLE", "Connection reset by peer", Unreachable),
    ("UNAVAILABLE", "GOAWAY received", Unreachable),
    ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", InvalidRequest),
    ("RESOURCE_EXHAUSTED", "rate limit", Overloaded),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
    ("CANCELLED", "the server is stopping", Cancelled),
    ("INTERNAL", "CUDA out of memory", GenerationFailed),
    ("UNKNOWN", "?", GenerationFailed),
]
HTTP_TABLE = [
    ("400", "flux_base: HEIGHT=7", InvalidRequest),
    ("404", "unknown model", InvalidRequest),
    ("413", "too large for a proxy", InvalidRequest),
    ("429", "slow down", Overloaded),
    ("499", "cancelled", Cancelled),
    ("500", "bug", GenerationFailed),
    ("501", "unsupported", InvalidRequest),
    ("502", "bad gateway", Unreachable),
    ("503", "full", Overloaded),
    ("503", "upstream: connection reset", Overloaded),
    ("504", "late", DeadlineExceeded),
    (None, None, GenerationFailed),
]


@pytest.mark.parametrize(("code", "message", "expected"), GRPC_TABLE)
def test_a_grpc_code_and_its_words_tell_the_error(code, message, expected):
    error = from_triton(f"StatusCode.{code}", message, "host:8001")
    assert type(error) is expected
    assert message in str(error)


@pytest.mark.parametrize(("status", "message", "expected"), HTTP_TABLE)
def test_an_http_status_tells_the_error(status, message, expected):
    assert type(from_triton(status, message, "host:8000")) is expected


@pytest.mark.parametrize("prefix", ["in ensemble 'a', ", "[request id: abc] in ensemble 'a', in ensemble 'b', "])
def test_what_triton_puts_before_the_models_words_is_taken_away(prefix):
    error = from_triton("400", f"{prefix}flux_base: HEIGHT=7, expected 16..2048", "host:8000")
    assert str(error) == "flux_base: HEIGHT=7, expected 16..2048"


def test_a_connection_error_names_the_server():
    assert "host:8001" in str(from_triton("StatusCode.UNAVAILABLE", "Socket closed", "host:8001"))
