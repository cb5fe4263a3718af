"""Streams of the real server: same images as plain calls, progress, cancellation, and a server that dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import DEMO, start_server
from flux_client import (
    AsyncFluxClient,
    Cancelled,
    DeadlineExceeded,
    Event,
    FluxClient,
    FluxError,
    ImageResult,
    InvalidRequest,
    NotConnected,
    Progress,
    Unreachable,
)
from flux_client.fake import FakeTransport
from flux_client.grpc_transport import GrpcTransport
from flux_client.request import Request
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from raw import samples_of
from test_client import assert_alike

pytestmark = pytest.mark.live

#: A request that takes minutes on this server's CPU: a test that waits for it fails.
LONG: dict[str, Any] = {"height": 512, "width": 512, "num_inference_steps": 100, "num_images": 8}
#: Seconds for a small request on a server that does nothing else, with room for a busy machine.
PROMPT_S = 20.0


def progress_in(events: list[Event]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def results_in(events: list[Event]) -> list[ImageResult]:
    return [event for event in events if isinstance(event, ImageResult)]


def test_stream_returns_images_of_plain_call_after_progress(demo_server: TritonServer) -> None:
    knobs: dict[str, Any] = {"num_images": 2, "seed": 9, "num_inference_steps": 4}
    with FluxClient(demo_server.grpc_url) as client:
        events = list(client.stream(drawn_image(1), preview_steps=2, **knobs))
        assert_alike(results_in(events), client.redux(drawn_image(1), **knobs))
    assert results_in(events) == events[-2:]
    progress = progress_in(events)
    for image in (0, 1):
        steps = [event.step for event in progress if event.image == image]
        assert steps == sorted(set(steps))
        assert steps[-1] == 4
    assert {event.steps for event in progress} == {4}
    previews = [event.preview for event in progress if event.preview is not None]
    assert previews
    assert all(preview.image.format == "JPEG" for preview in previews)


@pytest.mark.parametrize("method", ["latent2rgb", "vae"])
def test_previews_arrive_at_requested_interval_only(demo_server: TritonServer, method: str) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        told = progress_in(
            list(client.stream(drawn_image(1), num_inference_steps=60, preview_steps=30, preview_method=method))
        )
        plain = progress_in(list(client.stream(drawn_image(1), num_inference_steps=6)))
    (with_preview,) = (event.step for event in told if event.preview is not None)
    assert with_preview == 30 if method == "latent2rgb" else 30 <= with_preview < 60
    assert {event.preview for event in plain} == {None}


def test_async_stream_returns_same_images_as_sync_stream(demo_server: TritonServer) -> None:
    async def images(client: AsyncFluxClient, seed: int) -> list[ImageResult]:
        return results_in([event async for event in client.stream(drawn_image(1), seed=seed, num_inference_steps=3)])

    async def call() -> list[list[ImageResult]]:
        async with AsyncFluxClient(demo_server.grpc_url) as client:
            return await asyncio.gather(*(images(client, seed) for seed in range(3)))

    together = asyncio.run(call())
    with FluxClient(demo_server.grpc_url) as client:
        for seed, variations in enumerate(together):
            events = list(client.stream(drawn_image(1), seed=seed, num_inference_steps=3))
            assert_alike(variations, results_in(events))


def test_eight_threads_stream_from_one_client_at_once(demo_server: TritonServer) -> None:
    def images(client: FluxClient, seed: int) -> list[ImageResult]:
        return results_in(list(client.stream(drawn_image(1), seed=seed, num_inference_steps=4)))

    with FluxClient(demo_server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        streamed = list(pool.map(lambda seed: images(client, seed), range(8)))
        for seed, variations in enumerate(streamed):
            assert_alike(variations, client.redux(drawn_image(1), seed=seed, num_inference_steps=4))


def unfinished_calls(server: TritonServer) -> float:
    """Calls of the ensemble that ended without an image, as Triton counts them."""
    failures = (each for each in samples_of(server) if each.name == "nv_inference_request_failure")
    return sum(each.value for each in failures if each.labels["model"] == "flux_redux")


def assert_work_ended(server: TritonServer, before: float) -> None:
    """Check that the ensemble's call ended soon and the server is idle. before: `unfinished_calls` until then."""
    limit = time.monotonic() + 5
    while unfinished_calls(server) == before and time.monotonic() < limit:
        time.sleep(0.1)
    assert unfinished_calls(server) > before
    with FluxClient(server.grpc_url) as client:
        client.redux(drawn_image(2), num_inference_steps=1, timeout_s=PROMPT_S)


def test_cancelling_from_another_thread_ends_the_work(demo_server: TritonServer) -> None:
    before = unfinished_calls(demo_server)
    with FluxClient(demo_server.grpc_url) as client:
        stream = client.stream(drawn_image(1), **LONG)
        assert isinstance(next(stream), Progress)
        threading.Timer(0.2, stream.cancel).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            list(stream)
        assert time.monotonic() - started < 2
        with pytest.raises(Cancelled):
            next(stream)
    assert_work_ended(demo_server, before)


def test_leaving_the_block_or_dropping_the_stream_ends_the_work(demo_server: TritonServer) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        before = unfinished_calls(demo_server)
        with client.stream(drawn_image(1), **LONG) as stream:
            next(stream)
        assert_work_ended(demo_server, before)
        before = unfinished_calls(demo_server)
        for _ in client.stream(drawn_image(1), **LONG):
            break
        assert_work_ended(demo_server, before)


@pytest.mark.parametrize("how", ["cancel", "block", "aclose", "drop", "task"])
def test_every_way_to_leave_an_async_stream_ends_the_work(demo_server: TritonServer, how: str) -> None:
    async def begin_and_end(client: AsyncFluxClient) -> None:
        stream = client.stream(drawn_image(1), **LONG)
        if how == "block":
            async with stream:
                await anext(stream)
        elif how == "aclose":
            async with aclosing(stream):
                await anext(stream)
        elif how == "drop":
            await anext(stream)
            del stream
        elif how == "cancel":
            await anext(stream)
            asyncio.get_running_loop().call_later(0.2, stream.cancel)
            with pytest.raises(Cancelled):
                await asyncio.wait_for(_exhausted(stream), 2)
        else:
            task = asyncio.create_task(_exhausted(stream))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task], timeout=2)
            assert task.cancelled()

    async def _exhausted(stream: Any) -> None:
        async for _ in stream:
            pass

    async def call() -> None:
        async with AsyncFluxClient(demo_server.grpc_url) as client:
            await begin_and_end(client)
            await asyncio.to_thread(assert_work_ended, demo_server, before)

    before = unfinished_calls(demo_server)
    asyncio.run(call())


def test_a_stream_ends_at_its_deadline_and_so_does_its_work(demo_server: TritonServer) -> None:
    before = unfinished_calls(demo_server)
    with FluxClient(demo_server.grpc_url) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            list(client.stream(drawn_image(1), timeout_s=1, **LONG))
        assert time.monotonic() - started < 3
    assert_work_ended(demo_server, before)


def test_server_error_becomes_stream_exception(demo_server: TritonServer) -> None:
    with (
        FluxClient(demo_server.grpc_url) as client,
        pytest.raises(InvalidRequest, match=r"^flux_prior_redux: IMAGE\[0\]: not an image"),
    ):
        list(client.stream(b"not an image"))


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("flux_strem", {}, "Request for unknown model: 'flux_strem' is not found"),
        ("flux_stream", {"NEW": np.zeros((1, 1))}, "unexpected inference input 'NEW' for model 'flux_stream'"),
        ("flux_stream", {"SEED": np.zeros((1, 1))}, "inference input 'SEED' data-type is 'FP64', but model"),
        ("flux_stream", {"HEIGHT": np.zeros((1, 2), np.int32)}, "unexpected shape for input 'HEIGHT'"),
    ],
)
def test_stream_rejected_by_triton_is_invalid_request(
    demo_server: TritonServer, model: str, inputs: dict[str, Any], words: str
) -> None:
    transport = GrpcTransport(demo_server.grpc_url)
    request = Request(model, {"IMAGE": np.array([[b"an image"]], dtype=object), **inputs}, ("OUTPUT_IMAGE",))
    with closing(transport), pytest.raises(InvalidRequest, match=f"^{words}"):
        next(transport.stream(request, timeout_s=PROMPT_S, request_id="mine"))


@pytest.mark.parametrize("manner", ["lingers", "cancels"])
def test_server_survives_thirty_rejected_streams(demo_server: TritonServer, manner: str) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        for _ in range(30):
            stream = client.stream(b"not an image")
            with pytest.raises(InvalidRequest):
                next(stream)
            if manner == "lingers":
                time.sleep(0.05)
            else:
                stream.cancel()
        client.redux(drawn_image(1), num_inference_steps=1, timeout_s=PROMPT_S)


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several with previews": {"num_images": 3, "seed": 5, "preview_steps": 1},
    "previews at the last step": {"preview_steps": 2},
    "jpeg": {"output_format": "jpeg"},
    "a size between": {"height": 100},
    "too large": {"width": 8192},
    "an unknown way of previewing": {"preview_method": "sketch"},
}


def outcome(client: FluxClient, images: Any, knobs: dict[str, Any]) -> Any:
    """Returns the images of a stream, and for each image the steps that had a preview.

    Progress and previews can be lost on the way, so only the last progress of each image is compared.
    """
    try:
        events = list(client.stream(images, **knobs))
    except InvalidRequest:
        return InvalidRequest
    last = {event.image: (event.step, event.steps) for event in progress_in(events)}
    has_previews = any(event.preview for event in progress_in(events))
    return last, has_previews, [(v.seed, v.format, v.image.size, v.image.mode) for v in results_in(events)]


@pytest.mark.parametrize("name", REQUESTS)
def test_fake_server_streams_like_real_server(demo_server: TritonServer, name: str) -> None:
    knobs = {"num_inference_steps": 2} | REQUESTS[name]
    with FluxClient(demo_server.grpc_url) as real, FluxClient(transport=FakeTransport()) as fake:
        for images in (drawn_image(1), b"not an image"):
            assert outcome(fake, images, knobs) == outcome(real, images, knobs)


def test_the_command_line_writes_previews_as_they_arrive(demo_server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(drawn_image(1)))
    subprocess.run(
        [
            *(sys.executable, "-m", "flux_client.cli", "redux", "one.png", "-o", "out", "--seed", "3", "--steps", "4"),
            *("--previews", "seen", "--preview-steps", "2", "--url", demo_server.grpc_url),
        ],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one-redux-3.png"]
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["one-redux-0-2.jpg"]


def test_ctrl_c_ends_the_command_line_and_its_work(demo_server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(drawn_image(1)))
    before = unfinished_calls(demo_server)
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "flux_client.cli", "redux", "one.png", "--url", demo_server.grpc_url, "-n", "8"),
            *("--height", "512", "--width", "512", "--steps", "100", "--previews", "seen", "--preview-steps", "1"),
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # If the tests run in the background of a shell, SIGINT is ignored, and the child process would inherit this.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as command:
        limit = time.monotonic() + 60
        while not list(tmp_path.glob("seen/*")) and time.monotonic() < limit:
            time.sleep(0.1)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
    assert command.returncode == 130
    assert said == "flux-client: interrupted\n"
    assert_work_ended(demo_server, before)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_stream_of_dead_server_fails_soon_as_unreachable(tmp_path: Path, kind: str) -> None:
    async def follow(url: str, begun: threading.Event) -> None:
        async with AsyncFluxClient(url) as client:
            async for _ in client.stream(drawn_image(1), **LONG):
                begun.set()

    def call(url: str, begun: threading.Event) -> None:
        if kind == "async":
            asyncio.run(follow(url, begun))
            return
        with FluxClient(url) as client:
            for _ in client.stream(drawn_image(1), **LONG):
                begun.set()

    for server in start_server(DEMO, tmp_path / "triton.log"):
        begun = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(call, server.grpc_url, begun)
            assert begun.wait(60)
            killed = time.monotonic()
            server.kill()
            error = outcome.exception(30)
        assert isinstance(error, FluxError), repr(error)
        assert isinstance(error, Unreachable), repr(error)
        assert not isinstance(error, NotConnected), "the stream was under way"
        assert time.monotonic() - killed < 20
