"""Two instances of flux_base in one Triton share the work according to what each has left."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from conftest import DEMO, start_server
from flux_client import Cancelled, FluxClient, ImageResult, Progress, RetryPolicy
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded, pixels
from raw import CONTEXT, call_grpc, inputs_of, samples_of, tensors_of
from waiting import within

pytestmark = pytest.mark.live

IMAGE = encoded(drawn_image(1))
#: The largest share of the work divided by the smallest: at most 1.3 on an idle machine, 25 with round-robin.
#: On a busy machine the instances differ in speed and therefore in their shares.
MOST_IMBALANCE = 4.0
MAX_WAITING = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("two-instances") / "triton.log"
    yield from start_server(DEMO, log, cpu_instances=2)


@pytest.fixture
def client(server: TritonServer) -> Iterator[FluxClient]:
    with FluxClient(server.grpc_url, retry=RetryPolicy(attempts=1)) as made:
        yield made


def by_instance(server: TritonServer, metric: str) -> dict[str, float]:
    return {each.labels["instance"]: each.value for each in samples_of(server) if each.name == metric}


class Work:
    """Yields the token-steps that each instance runs in the block."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server

    def __enter__(self) -> Work:
        self._before = by_instance(self._server, "flux_tokens_total")
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # A separate thread publishes the metrics.
        now = by_instance(self._server, "flux_tokens_total")
        self.done = {name: now[name] - self._before[name] for name in now}
        print(f"work done: {self.done}")

    @property
    def imbalance(self) -> float:
        return max(self.done.values()) / max(1.0, min(self.done.values()))


def all_made(client: FluxClient, jobs: Sequence[dict[str, Any]], pause_s: float = 0.0) -> list[ImageResult]:
    """Send all requests at once, or one after each pause."""

    def ask(number: int) -> ImageResult:
        time.sleep(number * pause_s)
        (variation,) = client.redux(IMAGE, timeout_s=120, **jobs[number])
        return variation

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(ask, range(len(jobs))))


def test_long_and_short_requests_in_turn_are_shared_evenly(server: TritonServer, client: FluxClient) -> None:
    jobs = [{"num_inference_steps": (50, 2)[number % 2], "seed": number} for number in range(20)]
    with Work(server) as work:
        variations = all_made(client, jobs, pause_s=0.03)
    assert [variation.seed for variation in variations] == list(range(20))
    assert work.imbalance < MOST_IMBALANCE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_requests_are_shared_evenly(server: TritonServer, client: FluxClient, seed: int) -> None:
    rng = random.Random(seed)
    jobs = [
        {
            "num_inference_steps": rng.choice((2, 4, 10, 28, 50)),
            "height": rng.choice((64, 128, 256)),
            "width": rng.choice((64, 128, 256)),
            "seed": number,
        }
        for number in range(60)
    ]
    with Work(server) as work:
        variations = all_made(client, jobs, pause_s=0.02)
    assert [variation.seed for variation in variations] == list(range(60))
    assert work.imbalance < MOST_IMBALANCE


def test_every_instance_generates_the_same_images(server: TritonServer, client: FluxClient) -> None:
    jobs = [
        {"num_inference_steps": 2 + number % 5, "width": (64, 96)[number % 2], "height": 64, "seed": number}
        for number in range(24)
    ]
    alone = [pixels(client.redux(IMAGE, **job)[0].data) for job in jobs]
    handed_over = by_instance(server, "flux_handed_over_total")
    with Work(server) as work:
        together = [pixels(variation.data) for variation in all_made(client, jobs)]
    assert min(work.done.values()) > 0
    assert sum(by_instance(server, "flux_handed_over_total").values()) > sum(handed_over.values())
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_several_images_of_one_request_stay_together(server: TritonServer, client: FluxClient) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: client.redux(IMAGE, num_images=4, seed=seed), (0, 10, 20, 30)))
    assert [[variation.seed for variation in answer] for answer in answers] == [
        list(range(seed, seed + 4)) for seed in (0, 10, 20, 30)
    ]


def test_a_burst_fills_both_instances_before_any_request_is_refused(server: TritonServer) -> None:
    values = tensors_of([IMAGE])
    context = call_grpc(server.grpc_url, "flux_prior_redux", values, CONTEXT)
    tensors = {name: array[None] for name, array in context.items()} | {
        "NUM_INFERENCE_STEPS": np.array([[100]], np.int32),
        "HEIGHT": np.array([[256]], np.int32),
        "WIDTH": np.array([[256]], np.int32),
    }
    answers: SimpleQueue[str] = SimpleQueue()

    def note(result: object, error: Exception | None) -> None:
        answers.put(str(error))

    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as triton:
        wanted = [tritonclient.grpc.InferRequestedOutput("OUTPUT_SEED")]

        def ask(times: int) -> None:
            for _ in range(times):
                inputs = inputs_of(tritonclient.grpc, tensors)
                triton.async_infer("flux_base", inputs, note, outputs=wanted, timeout=20_000_000)

        ask(2 * MAX_WAITING)
        assert within(20, lambda: room(server) == [0, 0])
        assert answers.empty()
        ask(5)
        for _ in range(5):
            assert "no room for 1 more image: 64 are waiting or running" in answers.get(timeout=30)
        # The others are dropped when they time out.
        for _ in range(2 * MAX_WAITING):
            answers.get(timeout=60)


def room(server: TritonServer) -> list[int]:
    """Returns the number of images that each instance has room for."""
    answer = call_grpc(server.grpc_url, "flux_status", {"QUERY": np.array([[b"load"]], dtype=object)}, ["ROOM"])
    found: list[int] = answer["ROOM"].tolist()
    return found


def test_streams_of_either_instance_report_progress_and_can_be_cancelled(
    server: TritonServer, client: FluxClient
) -> None:
    def follow(seed: int) -> list[int]:
        steps = []
        with client.stream(IMAGE, num_inference_steps=10, seed=seed, timeout_s=60) as events:
            for event in events:
                if isinstance(event, Progress):
                    steps.append(event.step)
        return steps

    def cancel(seed: int) -> None:
        with client.stream(IMAGE, num_inference_steps=100, seed=seed, timeout_s=60) as events:
            next(iter(events))
            events.cancel()
            with pytest.raises(Cancelled):
                list(events)

    with Work(server) as work, ThreadPoolExecutor(12) as pool:
        cancelled = [pool.submit(cancel, seed) for seed in range(6)]
        followed = [pool.submit(follow, seed) for seed in range(6)]
        for future in (*cancelled, *followed):
            future.result(60)
    assert min(work.done.values()) > 0
    for future in followed:
        assert future.result() == sorted(future.result())
        assert future.result()[-1] == 10
    assert within(20, lambda: not any(by_instance(server, "flux_jobs_running").values()))


def test_single_instance_hands_no_request_over(demo_server: TritonServer) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        all_made(client, [{"num_inference_steps": 4, "seed": number} for number in range(6)])
    assert set(by_instance(demo_server, "flux_handed_over_total").values()) == {0.0}
