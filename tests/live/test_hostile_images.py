"""Slow images delay no other request and stop when their client disconnects. Full queues reject at once."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from flux_client import FluxClient
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded, slow_jpeg
from raw import CONTEXT, call_grpc, inputs_of, tensors_of

pytestmark = pytest.mark.live

OUTPUTS = ["OUTPUT_IMAGE", "OUTPUT_SEED"]


def vary(server: TritonServer, number: int) -> bytes:
    tensors = tensors_of([encoded(drawn_image(number))], num_inference_steps=1, seed=1)
    return call_grpc(server.grpc_url, "flux_redux", tensors, OUTPUTS)["OUTPUT_IMAGE"][0]


def decoding(server: TritonServer) -> dict[int, float]:
    """Returns the CPU seconds of busy decoding processes, by process id."""
    found = {}
    for process in psutil.Process(server.pid).children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            if "decoding_process" in " ".join(process.cmdline()) and times.user + times.system > 1:
                found[process.pid] = times.user + times.system
    return found


def busy_process(server: TritonServer, limit_s: float = 60) -> int:
    """Wait for a decoding process that takes CPU time. Returns its id."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        before = decoding(server)
        time.sleep(0.3)
        for pid, used_s in decoding(server).items():
            if pid in before and used_s > before[pid] + 0.02:
                return pid
    raise AssertionError("no image is being decoded")


def wait_until_gone(pid: int, limit_s: float = 20) -> None:
    until = time.monotonic() + limit_s
    while psutil.pid_exists(pid):
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.05)


class Answers:
    """Counts the outcomes of requests that are sent all at once."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()

    def take(self, result: Any, error: InferenceServerException | None) -> None:
        self._queue.put((result, error))

    def collect(self, count: int, refusal: str | None = None) -> Counter[str]:
        """Wait for this many responses. refusal: the output that carries an error; its text is the outcome."""
        outcomes = Counter[str]()
        for _ in range(count):
            result, error = self._queue.get(timeout=120)
            words = "" if error is not None or refusal is None else result.as_numpy(refusal).item().decode()
            if error is not None:
                outcomes[str(error.status())] += 1
            else:
                outcomes["UNAVAILABLE" if words.endswith("(UNAVAILABLE)") else words or "answered"] += 1
        assert self._queue.empty()
        return outcomes


@contextmanager
def sent(server: TritonServer, model: str, requests: list[dict[str, np.ndarray]], **options: Any) -> Iterator[Answers]:
    answers = Answers()
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for tensors in requests:
            client.async_infer(model, inputs_of(tritonclient.grpc, tensors), answers.take, **options)
        yield answers


@pytest.mark.parametrize("mode", ["redux", "img2img", "canny"])
def test_disconnecting_stops_the_decoding(demo_server: TritonServer, mode: str) -> None:
    knobs: dict[str, Any] = {"images": slow_jpeg(1)}
    if mode == "canny":
        knobs = {"control_image": slow_jpeg(2), "prompt": "a house"}
    with FluxClient(demo_server.grpc_url) as client:
        stream = client.stream(mode=mode, num_inference_steps=1, **knobs)  # type: ignore[arg-type]
        reader = threading.Thread(target=_exhaust, args=(stream,))
        reader.start()
        busy = busy_process(demo_server)
        stream.close()
        wait_until_gone(busy)
        reader.join(30)
    assert vary(demo_server, 900).startswith(b"\x89PNG")


def _exhaust(stream: Any) -> None:
    with suppress(Exception):
        for _ in stream:
            pass


def test_other_clients_are_served_while_slow_images_are_decoded(demo_server: TritonServer) -> None:
    with FluxClient(demo_server.grpc_url) as client, ExitStack() as streams:
        for number in range(8):
            streams.enter_context(client.stream(slow_jpeg(10 + number), num_inference_steps=1))
        busy_process(demo_server)
        for number in range(5):
            assert vary(demo_server, 910 + number).startswith(b"\x89PNG")
        assert busy_process(demo_server)


def test_excess_slow_images_are_rejected_and_others_end_at_deadline(demo_server: TritonServer) -> None:
    """Other requests are served meanwhile. Rejected ones succeed later: the response cache has not stored the error."""
    slow = [tensors_of([slow_jpeg(100 + number)], num_inference_steps=1) for number in range(20)]
    with sent(demo_server, "flux_redux", slow, timeout=8_000_000) as answers:
        busy_process(demo_server)
        assert vary(demo_server, 920).startswith(b"\x89PNG")
        outcomes = answers.collect(20)
    assert outcomes["StatusCode.UNAVAILABLE"] >= 11
    assert set(outcomes) <= {"StatusCode.UNAVAILABLE", "answered"}
    again = call_grpc(demo_server.grpc_url, "flux_redux", slow[-1], OUTPUTS)
    assert again["OUTPUT_IMAGE"][0].startswith(b"\x89PNG")


def test_invented_progress_address_ends_only_its_own_request(demo_server: TritonServer) -> None:
    """The response cache's key excludes parameters, so this response must not be cached."""
    tensors = tensors_of([encoded(drawn_image(925))], num_inference_steps=1, seed=1)
    for address in ("../../etc/passwd", "0" * 32, 7):
        with sent(demo_server, "flux_redux", [tensors], parameters={"flux_progress_address": address}) as answers:
            assert answers.collect(1).keys() <= {"StatusCode.CANCELLED"}
    assert vary(demo_server, 925).startswith(b"\x89PNG")


def context_of(server: TritonServer) -> dict[str, np.ndarray]:
    tensors = tensors_of([encoded(drawn_image(930))])
    found = call_grpc(server.grpc_url, "flux_prior_redux", {"IMAGE": tensors["IMAGE"]}, CONTEXT)
    return {name: values[None] for name, values in found.items()}


def flood(server: TritonServer, model: str, count: int) -> list[dict[str, np.ndarray]]:
    """Returns different requests of a model."""
    if model == "flux_base":
        more = {"NUM_INFERENCE_STEPS": np.array([[1]], np.int32)}
        return [context_of(server) | more] * count
    if model == "image_encode":
        noise = np.random.default_rng(0).integers(0, 256, (1, 1, 256, 256, 3)).astype(np.uint8)
        return [{"PIXELS": noise}] * count
    images = [encoded(drawn_image(number, 320, 240)) for number in range(2000, 2000 + count)]
    name = "CONTROL_IMAGE" if model == "canny_edges" else "IMAGE"
    steps = {"NUM_INFERENCE_STEPS": np.array([[1]], np.int32)} if model == "flux_redux" else {}
    return [{name: np.array([[image]], dtype=object)} | steps for image in images]


REFUSALS = {
    "flux_prior_redux": "REFUSAL",
    "flux_vae_encoder": "SOURCE_REFUSAL",
    "canny_edges": "CONTROL_REFUSAL",
    "flux_base": None,
    "image_encode": None,
    "flux_redux": None,
}


@pytest.mark.parametrize("model", REFUSALS)
def test_each_request_of_a_flood_gets_one_answer(demo_server: TritonServer, model: str) -> None:
    requests = flood(demo_server, model, 300)
    with sent(demo_server, model, requests) as answers, FluxClient(demo_server.grpc_url) as honest:
        (variation,) = honest.redux(encoded(drawn_image(940)), num_inference_steps=1, seed=1, timeout_s=100)
        outcomes = answers.collect(300, REFUSALS[model])
    assert variation.data.startswith(b"\x89PNG")
    assert set(outcomes) <= {"answered", "UNAVAILABLE", "StatusCode.UNAVAILABLE"}
    assert outcomes["answered"] >= 64
    assert outcomes.total() == 300
