"""Private memory of the server's processes after many streams that end in different ways.

`pytest tests/live/test_memory_growth.py --soak-streams 4000 --timeout 3600` is the soak; fewer streams run by default.
"""

from __future__ import annotations

import http.client
import json
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from conftest import DEMO, start_server
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from process_memory import growth, private_bytes
from raw import inputs_of, tensors_of

pytestmark = pytest.mark.live

#: Concurrent streams; flux_stream accepts 24.
CALLERS = 8
STEPS = 60
KNOBS = {"num_inference_steps": STEPS, "height": 64, "width": 64, "preview_steps": 5}
IMAGE = encoded(drawn_image(1))
#: Megabytes that a process may grow by, whatever the streams, and for each of them: 20 MB for 4,000 streams.
NOISE_MB, MB_PER_STREAM = 10.0, 10 / 4000
#: A process must exceed its bound in every round for the test to fail.
ROUNDS = 3


@pytest.fixture(scope="module")
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A separate server: after other tests, free memory of the heap would hide growth."""
    yield from start_server(DEMO, tmp_path_factory.mktemp("fresh-server") / "triton.log")


def events(server: TritonServer, tensors: dict[str, np.ndarray], most: int | None = None) -> Iterator[str | None]:
    """Yields the error, or None, of each response of a gRPC stream. Cancels it after `most` responses."""
    responses: queue.Queue[tuple[tritonclient.grpc.InferResult, InferenceServerException | None]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: responses.put((result, error)))
        client.async_stream_infer(
            "flux_stream", inputs_of(tritonclient.grpc, tensors), enable_empty_final_response=True
        )
        count = 0
        while count != most:
            result, error = responses.get(timeout=60)
            count += 1
            yield None if error is None else error.message()
            if error is not None or result.get_response().parameters["triton_final_response"].bool_param:
                return
        client.stop_stream(cancel_requests=True)


def complete(server: TritonServer) -> None:
    received = list(events(server, tensors_of([IMAGE], **KNOBS)))
    assert len(received) > 1
    assert not any(received), received


def cancel(server: TritonServer) -> None:
    assert list(events(server, tensors_of([IMAGE], **KNOBS), most=3)) == [None] * 3


def be_refused(server: TritonServer) -> None:
    """A stream that the last model of the ensemble rejects."""
    (error,) = events(server, tensors_of([IMAGE], **{**KNOBS, "width": 500}))
    assert error is not None
    assert "WIDTH=500" in error


def disconnect(server: TritonServer) -> None:
    """Close the HTTP connection of a stream after its second event."""
    connection = http.client.HTTPConnection(server.http_url, timeout=60)
    body = {"MODE": "text2img", "PROMPT": "red apple", **{name.upper(): value for name, value in KNOBS.items()}}
    connection.request("POST", "/v2/models/flux_stream/generate_stream", json.dumps(body))
    response = connection.getresponse()
    for _ in range(2):
        while not (line := response.readline()).startswith(b"data:"):
            assert line, "the stream has ended"
    response.close()
    connection.close()


@pytest.mark.parametrize("kind", [cancel, disconnect, complete, be_refused], ids=lambda kind: kind.__name__)
def test_streams_add_no_memory_to_any_process(
    fresh_server: TritonServer, kind: Callable[[TritonServer], None], pytestconfig: pytest.Config
) -> None:
    streams: int = pytestconfig.getoption("soak_streams")
    # Triton's own threads keep the memory of their heaps' peak.
    bound = NOISE_MB + streams * MB_PER_STREAM
    bounds = {"tritonserver": 3 * bound}

    def private_bytes_after(count: int) -> dict[str, int]:
        """Measured when the server is idle: the work of a cancelled stream ends after its caller has left."""
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(kind, [fresh_server] * count))
        fresh_server.drain()
        return private_bytes(fresh_server)

    before = private_bytes_after(min(500, 2 * streams))
    # A leak increases the memory of a process in every round, a fragmented heap only in one.
    grown_each_round = set(before)
    for _ in range(ROUNDS):
        after = private_bytes_after(streams)
        grown = growth(before, after)
        print(f"{kind.__name__}, {streams} streams, MB:", {name: round(mb, 1) for name, mb in grown.items()})
        grown_each_round &= {name for name, mb in grown.items() if mb > bounds.get(name, bound)}
        if not grown_each_round:
            return
        before = after
    pytest.fail(f"these processes grew in each of {ROUNDS} rounds: {grown_each_round}")
