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
from flux_client.failures import from_stream, from_triton
from flux_contract.codes import CODES, with_code

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
    ("INTERNAL", "flux_stream: Model flux_redux - Error when running inference: Server not ready", Overloaded),
    ("INTERNAL", "Stub process 'flux_base_0_0' is not healthy.", Overloaded),
    ("INTERNAL", "flux_stream: Stub process 'flux_base_0_0' is not healthy.", Overloaded),
    ("INTERNAL", "flux_stream: Server not ready", Overloaded),
    ("INTERNAL", "flux_stream: Request for unknown model: 'flux_base' has no available versions", Overloaded),
    ("UNKNOWN", "Stream removed (Data frame with END_STREAM flag received)", Unreachable),
    ("INTERNAL", "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", Unreachable),
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
def test_a_grpc_status_and_message_determine_the_error(code, message, expected):
    error = from_triton(f"StatusCode.{code}", message, "host:8001")
    assert type(error) is expected
    assert message in str(error)


@pytest.mark.parametrize(("status", "message", "expected"), HTTP_TABLE)
def test_an_http_status_determines_the_error(status, message, expected):
    assert type(from_triton(status, message, "host:8000")) is expected


@pytest.mark.parametrize("prefix", ["in ensemble 'a', ", "[request id: abc] in ensemble 'a', in ensemble 'b', "])
def test_tritons_prefix_of_a_models_message_is_removed(prefix):
    error = from_triton("400", f"{prefix}flux_base: HEIGHT=7, expected 16..2048", "host:8000")
    assert str(error) == "flux_base: HEIGHT=7, expected 16..2048"


@pytest.mark.parametrize("error", CODES)
def test_a_code_on_a_stream_means_the_same_as_in_grpc_and_is_removed(error):
    # Triton has one code for both, as on a unary call.
    expected = Overloaded if error is DeadlineExceeded else error
    told = from_stream(with_code("flux_base: so it is (INTERNAL affairs)", CODES[error]), "host:8001")
    assert (type(told), str(told)) == (expected, "flux_base: so it is (INTERNAL affairs)")


STREAM_TABLE = [
    ("flux_stream: the server is stopping (CANCELLED)", Cancelled),
    ("Server is stopping, scheduler for model has stopped accepting new inference requests", Overloaded),
    ("Request for unknown model: 'flux_stream' has no available versions", Overloaded),
    ("Request for unknown model: 'flux_stream' is not found", InvalidRequest),
    ("unexpected inference input 'NEW' for model 'flux_stream'", InvalidRequest),
    ("[request id: a] inference input 'SEED' data-type is 'FP64', but model 'flux_stream' expects", InvalidRequest),
    ("[request id: a] expected number of inputs between 1 and 13 but got 0, but missing required input(s)", None),
    ("something else", None),
    ("(INTERNAL)", None),
    ("flux_base: bug (NEW_CODE)", None),
]


@pytest.mark.parametrize(("message", "expected"), STREAM_TABLE)
def test_a_message_without_a_code_determines_the_error(message, expected):
    assert type(from_stream(message, "host:8001")) is (expected or GenerationFailed)


HOSTILE = [
    "is stopping",
    "Server is stopping, scheduler for model has stopped accepting new inference requests",
    "Server not ready",
    "Request for unknown model: 'flux_redux' has no available versions",
    "connection reset by peer",
    "missing required input",
    "unexpected deadlock, at least one output is not set while no more ensemble steps can be made",
    "x (UNAVAILABLE)",
    "x' (CANCELLED)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_a_caller_does_not_change_the_error(text):
    words = f"flux_base: LORA={text!r}, expected one of: {text}"
    for message in (words, f"[request id: {text}] in ensemble 'flux_redux', {words}"):
        assert type(from_triton("StatusCode.INVALID_ARGUMENT", message, "host:8001")) is InvalidRequest
        assert type(from_triton("400", message, "host:8000")) is InvalidRequest
        assert type(from_stream(with_code(message, "INVALID_ARG"), "host:8001")) is InvalidRequest
    # Triton's message after the request id, which may contain a closing bracket.
    message = f"[request id: a] {text}] unexpected shape for input 'HEIGHT' for model 'flux_redux'"
    assert type(from_triton("StatusCode.INVALID_ARGUMENT", message, "host:8001")) is InvalidRequest


def test_a_connection_error_names_the_server():
    assert "host:8001" in str(from_triton("StatusCode.UNAVAILABLE", "Socket closed", "host:8001"))
