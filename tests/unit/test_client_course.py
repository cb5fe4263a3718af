"""Synchronous and asynchronous streams from a fake server. test_client_transports tests real connections."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flux_client import (
    FAIL_OVER,
    AsyncFluxClient,
    Cancelled,
    DeadlineExceeded,
    FluxClient,
    GenerationFailed,
    ImageResult,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Preview,
    Progress,
    RetryPolicy,
    Unreachable,
)
from flux_client.events import read_events
from flux_client.fake import AsyncFakeTransport, FakeTransport

STEADY = RetryPolicy(attempts=4, first_delay_s=1.0, max_delay_s=3.0, jitter=0.0)


def png(colour="red"):
    buffer = BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


class Clock:
    """A clock that only sleeping advances. on_sleep: called during each sleep."""

    def __init__(self):
        self.now_s = 100.0
        self.on_sleep = lambda: None

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.on_sleep()

    async def sleep_async(self, seconds):
        self.sleep(seconds)


class Caller:
    """One client, synchronous or not, of one fake server. events, error: results of its stream."""

    def __init__(self, kind):
        self.kind = kind
        self.clock = Clock()
        self.events, self.error = [], None

    def follow(self, fake, stop_after=None, retry=STEADY, **options):
        """stop_after: cancel after this number of events, and continue to iterate."""
        self.fake = fake
        if self.kind == "sync":
            client = FluxClient(transport=fake, retry=retry, clock=self.clock, sleep=self.clock.sleep)
            self.stream = client.stream(png(), **options)
            self._follow_sync(stop_after)
        else:
            asyncio.run(self._follow_async(fake, stop_after, retry, options))
        return self

    def _follow_sync(self, stop_after):
        try:
            for event in self.stream:
                self.events.append(event)
                if len(self.events) == stop_after:
                    self.stream.cancel()
        except Exception as error:
            self.error = error

    async def _follow_async(self, fake, stop_after, retry, options):
        transport = AsyncFakeTransport()
        transport.fake = fake
        client = AsyncFluxClient(transport=transport, retry=retry, clock=self.clock, sleep=self.clock.sleep_async)
        self.stream = client.stream(png(), **options)
        try:
            async for event in self.stream:
                self.events.append(event)
                if len(self.events) == stop_after:
                    self.stream.cancel()
        except Exception as error:
            self.error = error


@pytest.fixture(params=["sync", "async"])
def caller(request):
    return Caller(request.param)


class Breaking(FakeTransport):
    """A transport whose streams raise `error` after a number of responses."""

    def __init__(self, error, after):
        super().__init__()
        self.error, self.after = error, after

    def stream(self, request, timeout_s, request_id):
        answers = super().stream(request, timeout_s, request_id)
        answers._answers = self._broken(answers._answers)
        return answers

    def _broken(self, answers):
        for _, answer in zip(range(self.after), answers, strict=False):
            yield answer
        if self.error is not None:
            raise self.error


def test_progress_of_each_image_precedes_its_result(caller):
    caller.follow(FakeTransport(), num_images=2, num_inference_steps=2, seed=7)
    assert caller.error is None
    *progress, first, second = caller.events
    assert progress == [Progress(image, step, 2) for step in (0, 1, 2) for image in (0, 1)]
    assert [first, second] == FluxClient(transport=FakeTransport()).redux(png(), num_images=2, seed=7)


def test_previews_arrive_at_the_requested_steps_except_the_last(caller):
    caller.follow(FakeTransport(), num_inference_steps=6, preview_steps=2, preview_method="vae")
    assert [event.step for event in caller.events if isinstance(event, Progress) and event.preview] == [2, 4]


def test_a_preview_opens_and_saves_its_bytes(tmp_path):
    preview = Preview(png())
    assert preview.image.size == (8, 8)
    assert preview.save(tmp_path / "p.jpg").read_bytes() == preview.data
    assert repr(Progress(0, 1, 2, preview)) == "Progress(image=0, step=1, steps=2, preview=Preview())"
    with pytest.raises(GenerationFailed, match="flux_stream: PREVIEW is not an image"):
        _ = Preview(b"junk").image


@pytest.mark.parametrize("error", [Overloaded("full"), NotConnected("refused")])
def test_a_rejection_before_the_first_event_is_retried(caller, error):
    caller.follow(FakeTransport(error, error), num_inference_steps=1)
    assert isinstance(caller.events[-1], ImageResult)
    assert caller.clock.now_s == pytest.approx(103)
    assert [sent.timeout_s for sent in caller.fake.sent] == pytest.approx([600, 599, 597])
    assert len({sent.request_id for sent in caller.fake.sent}) == 1


def test_attempts_are_limited(caller):
    errors = [Overloaded(str(number)) for number in range(9)]
    assert caller.follow(FakeTransport(*errors)).error is errors[3]


@pytest.mark.parametrize("error", [Overloaded("full"), NotConnected("refused"), Unreachable("broke")])
def test_there_is_no_retry_after_the_first_event(caller, error):
    caller.follow(Breaking(error, after=1), retry=RetryPolicy(retried=(Overloaded, NotConnected, Unreachable)))
    assert caller.events == [Progress(0, 0, 50)]
    assert caller.error is error
    assert len(caller.fake.sent) == 1


@pytest.mark.parametrize("error", [Overloaded("stopping"), Unreachable("broke"), Cancelled("stopping")])
def test_fail_over_restarts_a_stream_without_an_image(caller, error):
    fake = Breaking(error, after=2)
    caller.follow(fake, retry=replace(FAIL_OVER, attempts=3), num_inference_steps=2)
    assert caller.error is error
    assert caller.events == [Progress(0, 0, 2), Progress(0, 1, 2)] * 3
    assert len({sent.request_id for sent in fake.sent}) == 1


def test_fail_over_does_not_restart_a_stream_with_an_image(caller):
    caller.follow(Breaking(Unreachable("broke"), after=4), retry=FAIL_OVER, num_inference_steps=2)
    assert isinstance(caller.events[-1], ImageResult)
    assert isinstance(caller.error, Unreachable)
    assert len(caller.fake.sent) == 1


def test_a_stream_without_an_image_is_a_server_error(caller):
    caller.follow(Breaking(None, after=2))
    assert len(caller.events) == 2
    assert isinstance(caller.error, GenerationFailed)
    assert str(caller.error) == "flux_stream: the stream ended without an image"


def test_no_attempt_starts_after_the_deadline(caller):
    caller.follow(FakeTransport(*[Overloaded("full")] * 9), timeout_s=2.5)
    assert isinstance(caller.error, Overloaded)
    assert caller.clock.now_s == pytest.approx(101)


def test_a_deadline_that_passes_while_waiting_is_raised(caller):
    def oversleep():
        caller.clock.now_s += 60

    caller.clock.on_sleep = oversleep
    caller.follow(FakeTransport(Overloaded("full")), timeout_s=10)
    assert isinstance(caller.error, DeadlineExceeded)


@pytest.mark.parametrize("retry", [STEADY, FAIL_OVER])
def test_a_cancelled_stream_raises_cancelled_and_ends_its_call(caller, retry):
    caller.follow(FakeTransport(), stop_after=2, retry=retry)
    assert len(caller.events) == 2
    assert isinstance(caller.error, Cancelled)
    assert [stream.cancelled for stream in caller.fake.streams] == [True]


def test_cancelling_between_attempts_ends_the_stream_soon_without_a_request(caller):
    caller.clock.on_sleep = lambda: caller.stream.cancel()
    caller.follow(FakeTransport(Overloaded("full")))
    assert isinstance(caller.error, Cancelled)
    assert caller.clock.now_s < 100.2
    assert len(caller.fake.sent) == 1


def test_a_finished_stream_is_not_cancelled(caller):
    caller.follow(FakeTransport(), num_inference_steps=1)
    caller.stream.cancel()
    assert caller.error is None
    assert not caller.fake.streams[0].cancelled
    if caller.kind == "sync":
        assert list(caller.stream) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"preview_steps": 101}, InvalidRequest),
        ({"preview_method": "sketch"}, InvalidRequest),
        ({"timeout_s": 0}, InvalidRequest),
        ({"heigth": 512}, TypeError),
        ({"progress_address": "x"}, TypeError),
    ],
)
def test_invalid_options_are_rejected_before_the_request_is_sent(caller, options, error):
    fake = FakeTransport()
    try:
        caller.follow(fake, **options)
    except (InvalidRequest, TypeError) as raised:
        caller.error = raised
    assert isinstance(caller.error, error)
    assert fake.sent == []


def test_stream_sends_the_request_before_it_returns():
    fake = FakeTransport()
    with FluxClient(transport=fake).stream(png(), request_id="mine", preview_steps=3):
        [sent] = fake.sent
    assert (sent.request.model, sent.request_id) == ("flux_stream", "mine")
    assert sent.request.inputs["PREVIEW_STEPS"].tolist() == [[3]]


def ended_by_leaving_its_block(stream):
    with stream:
        next(stream)


def ended_by_closing(stream):
    with closing(stream):
        next(stream)


def ended_by_an_exception(stream):
    with suppress(ZeroDivisionError), stream:
        for _ in stream:
            _ = 1 / 0


def ended_by_breaking_and_dropping(stream):
    for _ in stream:
        break


@pytest.mark.parametrize(
    "end",
    [ended_by_leaving_its_block, ended_by_closing, ended_by_an_exception, ended_by_breaking_and_dropping],
)
def test_a_stream_is(end):
    fake = FakeTransport()
    client = FluxClient(transport=fake)
    gc.disable()
    try:
        end(client.stream(png()))
    finally:
        gc.enable()
    assert [stream.cancelled for stream in fake.streams] == [True]


async def async_ended_by_leaving_its_block(stream):
    async with stream:
        await anext(stream)


async def async_ended_before_its_first_event(stream):
    async with stream:
        pass


async def async_ended_by_aclose(stream):
    async with aclosing(stream):
        await anext(stream)


async def async_ended_by_breaking_and_dropping(stream):
    async for _ in stream:
        break


@pytest.mark.parametrize(
    "end",
    [
        async_ended_by_leaving_its_block,
        async_ended_before_its_first_event,
        async_ended_by_aclose,
        async_ended_by_breaking_and_dropping,
    ],
)
def test_an_async_stream_is(end):
    transport = AsyncFakeTransport()

    async def run():
        await end(AsyncFluxClient(transport=transport).stream(png()))

    asyncio.run(run())
    assert [stream.cancelled for stream in transport.fake.streams] == [True]


def test_cancelling_the_waiting_task_ends_an_async_stream():
    transport = AsyncFakeTransport()

    class Silent:
        async def __anext__(self):
            await asyncio.sleep(60)

        def cancel(self):
            self.cancelled = True

    silent = Silent()
    transport.stream = lambda *_: silent

    async def run():
        stream = AsyncFluxClient(transport=transport).stream(png())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.2)
        with pytest.raises(Cancelled):
            await anext(stream)

    asyncio.run(run())
    assert silent.cancelled


def test_an_unused_async_stream_sends_no_request():
    transport = AsyncFakeTransport()

    async def run():
        AsyncFluxClient(transport=transport).stream(png()).cancel()

    asyncio.run(run())
    assert transport.fake.sent == []


def test_cancelling_wakes_a_thread_that_waits_for_an_event():
    class Silent:
        def __init__(self):
            self.told = threading.Event()

        def __next__(self):
            assert self.told.wait(5)
            raise Cancelled("the call was cancelled")

        def cancel(self):
            self.told.set()

    fake = FakeTransport()
    fake.stream = lambda *_: Silent()
    stream = FluxClient(transport=fake).stream(png())
    threading.Timer(0.05, stream.cancel).start()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(Cancelled, match="the caller cancelled"):
            next(stream)
    assert time.monotonic() - started < 2


def test_a_stream_that_fails_in_the_client_is_cancelled_on_the_server(caller):
    class Senseless(FakeTransport):
        def stream(self, *arguments):
            answers = super().stream(*arguments)
            answers._answers = iter([{"PROGRESS": np.zeros((1, 2), np.int32)}])
            return answers

    caller.follow(Senseless())
    assert isinstance(caller.error, GenerationFailed)
    caller.stream.cancel()
    assert caller.fake.streams[0].cancelled


def test_an_empty_response_is_skipped(caller):
    class Quiet(FakeTransport):
        def stream(self, *arguments):
            answers = super().stream(*arguments)
            answers._answers = iter([{}, *answers._answers, {}])
            return answers

    caller.follow(Quiet(), num_inference_steps=1)
    assert [type(event) for event in caller.events] == [Progress, Progress, ImageResult]


@pytest.mark.parametrize(
    "answer",
    [
        {"PROGRESS": np.zeros((1, 2), np.int32)},
        {"PROGRESS": np.zeros((3,), np.int32)},
        {"PROGRESS": np.zeros((1, 3), np.int32), "PREVIEW": np.empty((1, 0), object)},
        {"OUTPUT_IMAGE": np.array([[b"a"]], object)},
    ],
)
def test_an_invalid_response_is_a_server_error(answer):
    with pytest.raises(GenerationFailed, match="flux_stream"):
        read_events(answer)
