"""Requests that share steps: each gets its own image, excess requests are rejected, and nothing is left behind."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from conftest import DEMO, start_server
from flux_client import FluxClient, Progress
from flux_contract.models import MODELS
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded, pixels
from raw import CONTEXT, call_grpc, engine_metrics, inputs_of, memory_of_models, tensors_of, triton_metric
from reference import StockDiffusers

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def second_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from start_server(DEMO, tmp_path_factory.mktemp("second-server") / "triton.log")


def context_of(server: TritonServer, image: bytes) -> dict[str, np.ndarray]:
    context = call_grpc(server.grpc_url, "flux_prior_redux", tensors_of([image]), CONTEXT)
    return {name: values[None] for name, values in context.items()}


def test_each_of_many_concurrent_requests_matches_diffusers(demo_server: TritonServer) -> None:
    """Two sizes, two step counts, two guidance scales, all at the same time."""
    stock = StockDiffusers(DEMO)
    jobs = [
        {
            "height": 64,
            "width": (64, 96)[index % 2],
            "num_inference_steps": (3, 9)[index // 2 % 2],
            "guidance_scale": (1.0, 3.5)[index // 4 % 2],
            "seed": 100 + index,
        }
        for index in range(12)
    ]
    before = engine_metrics(demo_server)
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(
            pool.map(
                lambda job: call_grpc(
                    demo_server.grpc_url,
                    "flux_redux",
                    tensors_of([encoded(drawn_image(job["seed"]))], **job),
                    ["OUTPUT_IMAGE", "OUTPUT_SEED"],
                ),
                jobs,
            )
        )
    time.sleep(0.5)
    after = engine_metrics(demo_server)
    for job, answer in zip(jobs, answers, strict=True):
        assert answer["OUTPUT_SEED"].tolist() == [job["seed"]]
        expected = stock.variation(
            drawn_image(job["seed"]),
            height=job["height"],
            width=job["width"],
            steps=job["num_inference_steps"],
            guidance=job["guidance_scale"],
            seed=job["seed"],
        )
        assert np.abs(pixels(answer["OUTPUT_IMAGE"][0]) - expected.rgb).max() <= 1
    rows = after["flux_rows_per_step_sum"] - before["flux_rows_per_step_sum"]
    assert rows == sum(job["num_inference_steps"] for job in jobs)
    assert after["flux_rows_per_step_count"] - before["flux_rows_per_step_count"] < rows, "no step was shared"


def test_engine_metrics_add_up(demo_server: TritonServer) -> None:
    before = engine_metrics(demo_server)
    tensors = tensors_of([encoded(drawn_image(5))], num_inference_steps=6, num_images=2)
    call_grpc(demo_server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
    # Triton updates its metrics every two seconds at most, and a separate thread publishes the engine's.
    time.sleep(0.5)
    after = engine_metrics(demo_server)
    change = {name: after[name] - before[name] for name in after}
    assert change["flux_jobs_total:done"] == 2
    assert change["flux_step_seconds_count"] == 6
    assert change["flux_rows_per_step_sum"] == 12
    # One text token, 16 tokens of the input image, 16 of the generated image.
    assert change["flux_tokens_total"] == 12 * 33
    assert 0 < change["flux_forward_seconds_total"] <= change["flux_step_seconds_sum"]
    assert change["flux_queue_seconds_count"] == change["flux_job_seconds_count"] == 2
    assert after["flux_jobs_running"] == after["flux_jobs_waiting"] == 0
    assert after["flux_tokens_running"] == after["flux_tokens_waiting"] == 0


def test_one_step_image_is_not_delayed_by_four_streams_with_vae_previews(
    demo_server: TritonServer,
) -> None:
    """Decoding their previews takes longer than their steps, so previews always wait."""
    begun, may_leave = threading.Semaphore(0), threading.Event()

    def stream(seed: int) -> int:
        """Returns the steps done when the one-step image arrived."""
        done = 0
        with FluxClient(demo_server.grpc_url) as client:
            size = {"height": 256, "width": 256, "num_inference_steps": 100}
            events = client.stream(drawn_image(1), seed=seed, preview_steps=1, preview_method="vae", **size)
            with events:
                for event in events:
                    assert isinstance(event, Progress), "it ended first"
                    done = event.step
                    if done == 3:
                        begun.release()
                    if may_leave.is_set():
                        break
        return done

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, seed) for seed in range(4)]
        try:
            for _ in streams:
                assert begun.acquire(timeout=60)
            with FluxClient(demo_server.grpc_url) as client:
                client.redux(drawn_image(2), height=256, width=256, num_inference_steps=1)
        finally:
            may_leave.set()
        assert max(one.result() for one in streams) < 100


def test_every_model_process_publishes_heartbeat_and_shared_memory(demo_server: TritonServer) -> None:
    def beats() -> dict[str, float]:
        return {model.name: triton_metric(demo_server, "flux_heartbeat_seconds", model.name) for model in MODELS}

    first, limit = beats(), time.monotonic() + 30
    # A new process publishes nothing for some seconds.
    while any(beat <= first[model] for model, beat in beats().items()) and time.monotonic() < limit:
        time.sleep(0.5)
    for model, beat in beats().items():
        assert first[model] < beat <= time.time(), model
    memory, published = shutil.disk_usage("/dev/shm"), engine_metrics(demo_server)
    assert published["flux_shared_memory_bytes:size"] == memory.total
    assert 0 < published["flux_shared_memory_bytes:used"] <= memory.total


def test_a_run_cut_in_two_on_two_servers_gives_the_same_image(
    demo_server: TritonServer, second_server: TritonServer
) -> None:
    context = context_of(demo_server, encoded(drawn_image(3)))
    knobs = tensors_of([], num_inference_steps=10, num_images=2, seed=7)
    del knobs["IMAGE"]
    whole = call_grpc(demo_server.grpc_url, "flux_base", {**context, **knobs}, ["PIXELS", "LATENTS"])
    part = {"END_STEP": np.array([[4]], np.int32)}
    first = call_grpc(demo_server.grpc_url, "flux_base", {**context, **knobs, **part}, ["LATENTS"])
    rest = {"START_STEP": np.array([[4]], np.int32), "INITIAL_LATENTS": first["LATENTS"][None]}
    second = call_grpc(second_server.grpc_url, "flux_base", {**context, **knobs, **rest}, ["PIXELS", "LATENTS"])
    assert np.abs(first["LATENTS"] - whole["LATENTS"]).max() > 0.1
    assert np.abs(second["LATENTS"] - whole["LATENTS"]).max() <= 1e-4
    assert np.abs(second["PIXELS"].astype(int) - whole["PIXELS"].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"END_STEP": np.array([[9]], np.int32)}, "END_STEP=9, expected at most 4 steps"),
        ({"START_STEP": np.array([[2]], np.int32)}, "START_STEP=2 needs INITIAL_LATENTS"),
        (
            {"INITIAL_LATENTS": np.zeros((1, 1, 3, 64), np.float32)},
            r"INITIAL_LATENTS has shape \[1, 3, 64\], expected \[1, 16, 64\]",
        ),
        ({"INITIAL_LATENTS": np.full((1, 1, 16, 64), np.nan, np.float32)}, "INITIAL_LATENTS has non-finite values"),
    ],
)
def test_rejects_impossible_part_of_run(
    demo_server: TritonServer, tensors: dict[str, np.ndarray], message: str
) -> None:
    context = context_of(demo_server, encoded(drawn_image(3)))
    steps = {"NUM_INFERENCE_STEPS": np.array([[4]], np.int32)}
    with pytest.raises(InferenceServerException, match=message) as caught:
        call_grpc(demo_server.grpc_url, "flux_base", {**context, **steps, **tensors}, ["LATENTS"])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_each_of_200_concurrent_requests_gets_image_or_overloaded_error(
    second_server: TritonServer, tmp_path: Path
) -> None:
    """The queue has 64 places. Afterwards the models use no more memory than before."""

    def flood(first_seed: int) -> list[str]:
        with tritonclient.grpc.InferenceServerClient(second_server.grpc_url) as client:
            calls = []
            for seed in range(first_seed, first_seed + 200):
                tensors = tensors_of([encoded(drawn_image(seed % 4))], num_inference_steps=30, seed=seed)
                done: list[object] = []
                client.async_infer(
                    "flux_redux",
                    inputs_of(tritonclient.grpc, tensors),
                    lambda result, error, done=done: done.append(error or result),
                )
                calls.append(done)
            limit = time.monotonic() + 200
            while not all(calls) and time.monotonic() < limit:
                time.sleep(0.05)
        assert all(calls), f"{sum(not done for done in calls)} of 200 requests hang"
        outcomes = []
        for (outcome,) in calls:
            if isinstance(outcome, InferenceServerException):
                assert outcome.status() == "StatusCode.UNAVAILABLE", outcome
                assert "64 are waiting or running" in outcome.message()
                outcomes.append("refused")
            else:
                assert pixels(outcome.as_numpy("OUTPUT_IMAGE")[0, 0]).shape == (64, 64, 3)
                outcomes.append("image")
        return outcomes

    first = flood(0)
    assert first.count("image") >= 64
    assert first.count("refused") > 0
    after_first = memory_of_models(second_server)
    second = flood(1000)
    assert second.count("image") >= 64
    time.sleep(1)
    grown_mb = (memory_of_models(second_server) - after_first) / 2**20
    assert grown_mb < 64, f"the models grew by {grown_mb:.0f} MB"
    assert engine_metrics(second_server)["flux_jobs_waiting"] == 0
