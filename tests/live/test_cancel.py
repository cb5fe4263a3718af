"""Cancels streams by a separate request, with plain tritonclient and with the client library."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flux_client import FluxClient, Progress
from flux_serving.launch.server import TritonServer
from test_stream import (
    IMAGE,
    LONG,
    Stream,
    answers_of,
    assert_serves_promptly,
    one_more_dropped,
    wait_until_nobody_streams,
    with_text,
)

pytestmark = pytest.mark.live


def cancel(server: TritonServer, token: str) -> list[str | None]:
    """Cancel the stream with this token. Returns the error of each response, None if it is the empty confirmation."""
    tensors = with_text({}, cancel=token)
    return [answer.error for answer in answers_of(server, tensors)]


def test_a_cancelled_stream_ends_with_its_last_answer_after_one_more_step_at_most(demo_server: TritonServer) -> None:
    token = secrets.token_urlsafe(16)
    with (
        one_more_dropped(demo_server, least=3, most=4),
        Stream(demo_server, with_text(LONG, stream_token=token)) as stream,
    ):
        stream.until_step(3)
        assert cancel(demo_server, token) == [None]
        *_, last = stream
        assert last.is_final
        assert last.error == "flux_stream: request cancelled by the client (CANCELLED)"
    wait_until_nobody_streams(demo_server)
    assert_serves_promptly(demo_server)


def test_unknown_token_cancels_no_stream(demo_server: TritonServer) -> None:
    token = secrets.token_urlsafe(16)
    unknown = "flux_stream: CANCEL: no running stream has this token; it may have ended (INVALID_ARG)"
    with Stream(demo_server, with_text(LONG, stream_token=token)) as stream, Stream(demo_server, LONG) as nameless:
        stream.until_step(1)
        nameless.until_step(1)
        for guess in ("", token[:-1], token + "A", secrets.token_urlsafe(16), ".*", "画"):
            assert cancel(demo_server, guess) == [unknown]
        taken = answers_of(demo_server, with_text(LONG, stream_token=token))
        assert [answer.error for answer in taken] == [
            "flux_stream: STREAM_TOKEN is in use by another stream (INVALID_ARG)"
        ]
        # Both streams continue.
        stream.until_step(2)
        nameless.until_step(2)
        assert cancel(demo_server, token) == [None]
        nameless.cancel()
    assert cancel(demo_server, token) == [unknown]
    wait_until_nobody_streams(demo_server)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"stream_token": "guessable"}, "flux_stream: STREAM_TOKEN does not match [0-9A-Za-z_-]{22,64} (INVALID_ARG)"),
        (
            {"cancel": "a" * 22, "stream_token": "a" * 22},
            "flux_stream: CANCEL must be the only input of its request, found 2 more (INVALID_ARG)",
        ),
    ],
)
def test_rejects_guessable_token_and_request_that_starts_and_cancels(
    demo_server: TritonServer, texts: dict[str, str], message: str
) -> None:
    tensors = with_text({"IMAGE": np.array([[IMAGE]], dtype=object)}, **texts)
    assert [answer.error for answer in answers_of(demo_server, tensors)] == [message]


def test_a_hundred_cancelled_streams_end_by_themselves_and_leave_the_server_alive(demo_server: TritonServer) -> None:
    """No stream is cancelled through gRPC, which has crashed Triton 2.51."""

    def cancel_some(number: int) -> None:
        with FluxClient(demo_server.grpc_url) as client:
            for _ in range(25):
                stream = client.stream(IMAGE, num_inference_steps=50)
                if number % 2:
                    assert isinstance(next(stream), Progress)
                answers = stream._answers
                stream.cancel()
                assert answers.call.has_ended_by_itself(20)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cancel_some, range(4)))
    limit = time.monotonic() + 20
    wait_until_nobody_streams(demo_server)
    assert time.monotonic() < limit
    assert_serves_promptly(demo_server)
