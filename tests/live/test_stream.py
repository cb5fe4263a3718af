"""`flux_stream` through plain tritonclient and HTTP: progress, previews, cancellation, and the final response."""

from __future__ import annotations

import base64
import io
import json
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from conftest import DEMO, start_server
from flux_client import FluxClient, ImageResult
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded, pixels
from raw import call_grpc, inputs_of, tensors_of

pytestmark = pytest.mark.live

IMAGE = encoded(drawn_image(1))
#: Each step takes tenths of a second, so that a test can act between two steps.
LONG = tensors_of([IMAGE], num_inference_steps=100, height=512, width=512)
#: Streams that flux_stream accepts at once.
MAX_STREAMS = 24


@dataclass(frozen=True)
class Answer:
    """One response of a stream. outputs: by name, without the batch dimension."""

    outputs: dict[str, np.ndarray]
    error: str | None
    is_final: bool

    @property
    def progress(self) -> tuple[int, int, int]:
        """Index of the image, steps done, total steps."""
        image, done, steps = self.outputs["PROGRESS"].tolist()
        return image, done, steps


class Stream:
    """One request on its own gRPC stream; iterating yields its responses up to the final one."""

    def __init__(self, server: TritonServer, tensors: dict[str, np.ndarray], **options: Any) -> None:
        self._answers: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
        self._client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))
        self._client.async_stream_infer(
            "flux_stream", inputs_of(tritonclient.grpc, tensors), enable_empty_final_response=True, **options
        )

    def __iter__(self) -> Iterator[Answer]:
        while True:
            result, error = self._answers.get(timeout=120)
            if error is not None:
                yield Answer({}, str(error.message()), is_final=True)
                return
            response = result.get_response()
            names = [output.name for output in response.outputs]
            is_final = response.parameters["triton_final_response"].bool_param
            yield Answer({name: result.as_numpy(name)[0] for name in names}, None, is_final)
            if is_final:
                return

    def until_step(self, step: int) -> None:
        """Wait until the first image has run this many steps."""
        for answer in self:
            assert answer.error is None, answer.error
            if answer.progress[1] >= step:
                return

    def silence(self, seconds: float) -> bool:
        """Whether no response arrives for this time."""
        try:
            self._answers.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def cancel(self) -> None:
        self._client.stop_stream(cancel_requests=True)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def answers_of(server: TritonServer, tensors: dict[str, np.ndarray], **options: Any) -> list[Answer]:
    with Stream(server, tensors, **options) as stream:
        return list(stream)


def accepted(server: TritonServer, tensors: dict[str, np.ndarray]) -> Stream:
    """Returns a stream that the engine has accepted. Streams of an earlier test may hold their places for a moment."""
    limit = time.monotonic() + 30
    while True:
        stream = Stream(server, tensors)
        first = next(iter(stream))
        if first.error is None:
            return stream
        assert time.monotonic() < limit, first.error
        time.sleep(0.2)


def with_text(tensors: dict[str, np.ndarray], **texts: str) -> dict[str, np.ndarray]:
    return tensors | {name.upper(): np.array([[text.encode()]], dtype=object) for name, text in texts.items()}


def server_folder(server: TritonServer) -> Path:
    return server._folder / "models"


def progress_sockets(folder: Path) -> list[Path]:
    """One for each stream."""
    return [path for path in folder.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]


def wait_until_nobody_streams(server: TritonServer) -> None:
    limit = time.monotonic() + 10
    while progress_sockets(server_folder(server)) and time.monotonic() < limit:
        time.sleep(0.02)
    assert progress_sockets(server_folder(server)) == []


def steps_when_dropped(server: TritonServer) -> list[int]:
    """Returns the steps done of every cancelled job, in order."""
    assert server._output is not None
    return [int(n) for n in re.findall(r"dropped: .*after (\d+) of", Path(server._output.name).read_text("utf8"))]


@contextmanager
def one_more_dropped(server: TritonServer, least: int, most: int) -> Iterator[None]:
    """Check that one job is cancelled within the block, after this many steps."""
    before = steps_when_dropped(server)
    yield
    limit = time.monotonic() + 30
    while len(dropped := steps_when_dropped(server)) == len(before) and time.monotonic() < limit:
        time.sleep(0.05)
    (steps,) = dropped[len(before) :]
    assert least <= steps <= most, f"dropped after {steps} steps"


def assert_serves_promptly(server: TritonServer) -> None:
    started = time.monotonic()
    answers = answers_of(server, tensors_of([IMAGE], num_inference_steps=2))
    assert answers[-1].error is None
    assert time.monotonic() - started < 10


def test_progress_arrives_for_each_step_before_image_of_flux_redux(demo_server: TritonServer) -> None:
    tensors = tensors_of([IMAGE], num_inference_steps=8, seed=31)
    *told, last = answers_of(demo_server, tensors)
    assert [answer.progress for answer in told] == [(0, done, 8) for done in range(9)]
    assert all(set(answer.outputs) == {"PROGRESS"} and not answer.is_final for answer in told)
    assert last.is_final
    assert set(last.outputs) == {"OUTPUT_IMAGE", "OUTPUT_SEED"}
    assert last.outputs["OUTPUT_SEED"].tolist() == [31]
    plain = call_grpc(demo_server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
    assert np.abs(pixels(last.outputs["OUTPUT_IMAGE"][0]) - pixels(plain["OUTPUT_IMAGE"][0])).max() <= 1


def test_every_image_has_its_own_progress(demo_server: TritonServer) -> None:
    *told, last = answers_of(demo_server, tensors_of([IMAGE], num_inference_steps=6, num_images=3, seed=5))
    for image in range(3):
        steps = [answer.progress[1] for answer in told if answer.progress[0] == image]
        # On a busy machine, the queue of 10 datagrams may overflow.
        assert steps == sorted(set(steps))
        assert steps[0] == 0
        assert len(steps) > 3
    assert last.error is None, last.error
    assert last.outputs["OUTPUT_SEED"].tolist() == [5, 6, 7]
    assert len(last.outputs["OUTPUT_IMAGE"]) == 3


@pytest.mark.parametrize(("method", "size"), [("latent2rgb", (12, 8)), ("vae", (96, 64))])
def test_previews_arrive_at_requested_interval_except_after_last_step(
    demo_server: TritonServer, method: str, size: tuple[int, int]
) -> None:
    """VAE previews are made while steps continue, so they arrive some steps later or are omitted at the end."""
    knobs = {"num_inference_steps": 60, "height": 64, "width": 96}
    tensors = tensors_of([IMAGE], **knobs, preview_steps=20)
    *told, last = answers_of(demo_server, with_text(tensors, preview_method=method))
    previews = {answer.progress[1]: answer.outputs["PREVIEW"][0] for answer in told if "PREVIEW" in answer.outputs}
    assert set(previews) == {20, 40} if method == "latent2rgb" else 20 <= min(previews) <= max(previews) < 60
    for preview in previews.values():
        image = Image.open(io.BytesIO(preview))
        image.load()
        assert (image.format, image.size) == ("JPEG", size)
    plain = answers_of(demo_server, tensors_of([IMAGE], **knobs))[-1]
    assert np.abs(pixels(last.outputs["OUTPUT_IMAGE"][0]) - pixels(plain.outputs["OUTPUT_IMAGE"][0])).max() <= 1


def test_a_late_preview_looks_like_the_image(demo_server: TritonServer) -> None:
    tensors = with_text(tensors_of([IMAGE], num_inference_steps=100, preview_steps=80), preview_method="vae")
    *told, last = answers_of(demo_server, tensors)
    (preview,) = (answer.outputs["PREVIEW"][0] for answer in told if "PREVIEW" in answer.outputs)
    assert np.abs(pixels(preview) - pixels(last.outputs["OUTPUT_IMAGE"][0])).mean() < 12


def test_large_image_has_downscaled_preview(demo_server: TritonServer) -> None:
    tensors = tensors_of([IMAGE], num_inference_steps=60, height=512, width=256, preview_steps=20)
    answers = answers_of(demo_server, with_text(tensors, preview_method="vae"))
    previews = [answer.outputs["PREVIEW"][0] for answer in answers if "PREVIEW" in answer.outputs]
    assert {Image.open(io.BytesIO(preview)).size for preview in previews} == {(128, 256)}


def test_at_most_one_more_step_runs_after_cancelling(demo_server: TritonServer) -> None:
    with one_more_dropped(demo_server, least=3, most=4), Stream(demo_server, LONG) as stream:
        stream.until_step(3)
        stream.cancel()
    wait_until_nobody_streams(demo_server)
    assert_serves_promptly(demo_server)


def test_cancelling_a_stream_does_not_affect_others(demo_server: TritonServer) -> None:
    quick = tensors_of([IMAGE], num_inference_steps=12, seed=3)
    with (
        ThreadPoolExecutor(3) as pool,
        one_more_dropped(demo_server, least=1, most=4),
        Stream(demo_server, LONG) as stream,
    ):
        others = [pool.submit(answers_of, demo_server, quick) for _ in range(3)]
        stream.until_step(1)
        stream.cancel()
        for other in others:
            assert [answer.progress[1] for answer in other.result()[:-1]] == list(range(13))


CLIENT = """
    import sys
    import numpy as np
    import tritonclient.grpc as triton
    inputs = []
    for name, values, kind in (
        ("IMAGE", np.array([[open(sys.argv[2], "rb").read()]], dtype=object), "BYTES"),
        *((name, np.array([[value]], np.int32), "INT32")
          for name, value in (("NUM_INFERENCE_STEPS", 100), ("HEIGHT", 512), ("WIDTH", 512))),
    ):
        inputs.append(triton.InferInput(name, list(values.shape), kind).set_data_from_numpy(values))
    client = triton.InferenceServerClient(sys.argv[1])
    client.start_stream(lambda result, error: print(result.as_numpy("PROGRESS")[0, 1], flush=True))
    client.async_stream_infer("flux_stream", inputs)
    sys.stdin.read()
"""


def test_at_most_one_more_step_runs_after_killing_client(demo_server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(IMAGE)
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), demo_server.grpc_url, str(tmp_path / "image.png")]
    with (
        one_more_dropped(demo_server, least=2, most=3),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client,
    ):
        assert client.stdout is not None
        while client.stdout.readline().strip() != "2":
            assert client.poll() is None
        client.send_signal(signal.SIGKILL)
    wait_until_nobody_streams(demo_server)
    assert_serves_promptly(demo_server)


def test_at_most_one_more_step_runs_after_closing_http_connection(demo_server: TritonServer) -> None:
    knobs = {"NUM_INFERENCE_STEPS": 100, "HEIGHT": 512, "WIDTH": 512}
    with one_more_dropped(demo_server, least=2, most=3), generate_stream(demo_server, **knobs) as response:
        while b"[0,2,100]" not in response.readline():
            pass
    wait_until_nobody_streams(demo_server)
    assert_serves_promptly(demo_server)


def test_request_ends_at_its_timeout(demo_server: TritonServer) -> None:
    answers = answers_of(demo_server, LONG, timeout=1_000_000)
    assert answers[-1].error is not None
    assert re.fullmatch(r"flux_base: the request timed out after \d+ of 100 steps \(UNAVAILABLE\)", answers[-1].error)
    wait_until_nobody_streams(demo_server)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            tensors_of([IMAGE], num_inference_steps=0),
            "flux_stream: NUM_INFERENCE_STEPS=0, expected 1..100 (INVALID_ARG)",
        ),
        (tensors_of([IMAGE], preview_steps=-1), "flux_stream: PREVIEW_STEPS=-1, expected 0..100 (INVALID_ARG)"),
        (
            tensors_of([IMAGE], width=500),
            "flux_base: WIDTH=500, expected a multiple of 16; nearest: 496 or 512 (INVALID_ARG)",
        ),
        (
            with_text(tensors_of([IMAGE]), preview_method="taesd"),
            "flux_stream: PREVIEW_METHOD='taesd', expected one of: latent2rgb, vae (INVALID_ARG)",
        ),
        (
            tensors_of([b"hello, world!"]),
            "flux_prior_redux: IMAGE[0]: not an image: starts with 'hello, world!'; "
            "expected PNG, JPEG, WebP, GIF, BMP or TIFF (INVALID_ARG)",
        ),
        (
            {"IMAGE": np.array([[IMAGE], [IMAGE]], dtype=object)},
            "[request id: <id_unknown>] inference request batch-size must be <= 1 for 'flux_stream'",
        ),
    ],
    ids=["steps", "previews", "size", "method", "image", "batch"],
)
def test_invalid_input_gets_error_of_rejecting_model(
    demo_server: TritonServer, tensors: dict[str, np.ndarray], message: str
) -> None:
    *told, last = answers_of(demo_server, tensors)
    assert told == []
    assert last.error == message
    wait_until_nobody_streams(demo_server)


def test_server_survives_thirty_rejected_streams(demo_server: TritonServer) -> None:
    """With the header `triton_grpc_error` Triton 2.51 crashes here after two."""
    for number in range(30):
        with Stream(demo_server, tensors_of([IMAGE], num_inference_steps=0)) as stream:
            (refused,) = stream
            assert refused.error is not None
            if number % 3 == 0:
                time.sleep(0.05)
            elif number % 3 == 1:
                stream.cancel()
    assert_serves_promptly(demo_server)


@pytest.mark.parametrize("address", ["../progress", "x" * 32, "0" * 32, "A" * 32, "/tmp/" + "0" * 32])
def test_rejects_malformed_or_foreign_progress_address(demo_server: TritonServer, address: str) -> None:
    tensors = with_text(tensors_of([IMAGE], num_inference_steps=1), progress_address=address)
    with pytest.raises(InferenceServerException) as caught:
        call_grpc(demo_server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
    assert str(caught.value.status()) == "StatusCode.INVALID_ARGUMENT"
    words = f"flux_base: PROGRESS_ADDRESS='{address[:40]}' is not an? (valid|open) progress address"
    assert re.search(words, str(caught.value.message()))


def test_rejects_regular_file_as_progress_address(demo_server: TritonServer) -> None:
    file = server_folder(demo_server) / ("f" * 32)
    file.write_text("a file, no socket")
    try:
        tensors = with_text(tensors_of([IMAGE], num_inference_steps=1), progress_address=file.name)
        with pytest.raises(InferenceServerException, match=r"PROGRESS_ADDRESS=.f+. is not an open progress address"):
            call_grpc(demo_server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
    finally:
        file.unlink()


def test_twelve_streams_at_once_all_end_and_leave_nothing(demo_server: TritonServer) -> None:
    def stream(seed: int) -> list[Answer]:
        return answers_of(demo_server, tensors_of([IMAGE], num_inference_steps=10, seed=seed, preview_steps=1))

    with ThreadPoolExecutor(12) as pool:
        for seed, (*told, last) in enumerate(pool.map(stream, range(12))):
            steps = [answer.progress[1] for answer in told]
            assert steps == sorted(set(steps))
            assert steps[0] == 0
            assert last.outputs["OUTPUT_SEED"].tolist() == [seed]
    wait_until_nobody_streams(demo_server)


def test_excess_stream_is_rejected_and_served_once_another_ends(demo_server: TritonServer) -> None:
    streams = [Stream(demo_server, LONG) for _ in range(MAX_STREAMS)]
    try:
        for stream in streams:
            next(iter(stream))
        started = time.monotonic()
        (refused,) = answers_of(demo_server, tensors_of([IMAGE], num_inference_steps=1))
        assert time.monotonic() - started < 2
        assert refused.error == "flux_stream: no room for one more stream: 24 are running (limit 24) (UNAVAILABLE)"
        streams[0].cancel()
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            answer = answers_of(demo_server, tensors_of([IMAGE], num_inference_steps=1))[-1]
            if answer.error is None:
                break
        assert answer.error is None
    finally:
        for stream in streams:
            stream.cancel()
    wait_until_nobody_streams(demo_server)


def test_stream_rejected_by_full_engine_gets_no_progress_and_may_retry(
    demo_server: TritonServer,
) -> None:
    """A request without progress may be retried, as the client does."""
    streams = [accepted(demo_server, LONG | tensors_of([IMAGE], num_images=8)) for _ in range(8)]
    try:
        (refused,) = answers_of(demo_server, tensors_of([IMAGE], num_inference_steps=1))
        assert refused.error == (
            "flux_base: no room for 1 more image: 64 are waiting or running (limit 64) (UNAVAILABLE)"
        )
        with (
            FluxClient(demo_server.grpc_url, timeout_s=60) as client,
            client.stream(IMAGE, num_inference_steps=1) as asked,
        ):
            time.sleep(1)
            streams[0].cancel()
            assert [type(event) for event in asked][-1] is ImageResult
    finally:
        for stream in streams:
            stream.cancel()
    wait_until_nobody_streams(demo_server)


def test_nothing_follows_the_last_answer(demo_server: TritonServer) -> None:
    tensors = tensors_of([IMAGE], num_inference_steps=5, num_images=4, preview_steps=1)
    for _ in range(5):
        with Stream(demo_server, tensors) as stream:
            assert [answer.is_final for answer in stream].count(True) == 1
            assert stream.silence(0.2)


def test_outputs_that_were_not_requested_are_not_sent(demo_server: TritonServer) -> None:
    wanted = [tritonclient.grpc.InferRequestedOutput("OUTPUT_IMAGE")]
    (only,) = answers_of(demo_server, tensors_of([IMAGE], num_inference_steps=3, preview_steps=1), outputs=wanted)
    assert set(only.outputs) == {"OUTPUT_IMAGE"}


def generate_stream(server: TritonServer, **knobs: Any) -> Any:
    body = {"IMAGE": base64.b64encode(IMAGE).decode(), "OUTPUT_FORMAT": "png;base64", **knobs}
    return urllib.request.urlopen(
        f"http://{server.http_url}/v2/models/flux_stream/generate_stream", json.dumps(body).encode(), timeout=60
    )


def test_plain_http_streams_same_responses_as_json(demo_server: TritonServer) -> None:
    with generate_stream(demo_server, NUM_INFERENCE_STEPS=4, PREVIEW_STEPS=2, SEED=9) as response:
        events = [json.loads(line.removeprefix(b"data: ")) for line in response if line.strip()]
    *told, last = events
    assert [event["PROGRESS"] for event in told] == [[0, done, 4] for done in range(5)]
    assert ["PREVIEW" in event for event in told] == [False, False, True, False, False]
    assert Image.open(io.BytesIO(base64.b64decode(told[2]["PREVIEW"]))).format == "JPEG"
    assert last["OUTPUT_SEED"] == 9
    assert pixels(base64.b64decode(last["OUTPUT_IMAGE"])).shape == (64, 64, 3)


def test_plain_http_gets_same_error_message(demo_server: TritonServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        generate_stream(demo_server, WIDTH=500)
    with caught.value as response:
        assert response.code == 400
        words = json.loads(response.read().removeprefix(b"data: "))["error"]
        assert words == "flux_base: WIDTH=500, expected a multiple of 16; nearest: 496 or 512 (INVALID_ARG)"


def test_a_server_that_stops_ends_its_streams_and_leaves_no_folder(tmp_path: Path) -> None:
    """Triton finishes the steps but starts no other model. The client closes its stream at the end: Triton 2.51 waits
    for that, as long as its exit timeout.
    """
    ends: list[Answer] = []

    def follow(stream: Stream) -> None:
        with stream:
            ends.append(list(stream)[-1])

    for server in start_server(DEMO, tmp_path / "triton.log"):
        stream = Stream(server, tensors_of([IMAGE], num_inference_steps=100))
        stream.until_step(1)
        thread = threading.Thread(target=follow, args=[stream])
        thread.start()
        folder = server_folder(server)
        assert len(progress_sockets(folder)) == 1
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 30
    thread.join(30)
    assert [end.error for end in ends] == ["flux_stream: the server is stopping (UNAVAILABLE)"]
    assert not folder.parent.exists()
