"""Streams, sync and async, of a fake server; those of the real wire are in test_client_transports."""

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
    """Time that passes only by sleeping; `on_sleep` happens during each sleep."""

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
    """One client, sync or async, of one fake; `events` and `error` are what its stream told."""

    def __init__(self, kind):
        self.kind = kind
        self.clock = Clock()
        self.events, self.error = [], None

    def follow(self, fake, stop_after=None, retry=STEADY, **options):
        """stop_after: cancel after so many events, and go on asking."""
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
    """Streams that break with `error` after so many answers."""

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


def test_progress_of_each_image_comes_first_and_then_its_variation(caller):
    caller.follow(FakeTransport(), num_images=2, num_inference_steps=2, seed=7)
    assert caller.error is None
    *progress, first, second = caller.events
    assert progress == [Progress(image, step, 2) for step in (0, 1, 2) for image in (0, 1)]
    assert [first, second] == FluxClient(transport=FakeTransport()).redux(png(), num_images=2, seed=7)


def test_previews_come_with_the_steps_asked_for_but_the_last(caller):
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
def test_a_refusal_before_the_first_event_is_tried_again(caller, error):
    caller.follow(FakeTransport(error, error), num_inference_steps=1)
    assert isinstance(caller.events[-1], ImageResult)
    assert caller.clock.now_s == pytest.approx(103)
    assert [sent.timeout_s for sent in caller.fake.sent] == pytest.approx([600, 599, 597])
    assert len({sent.request_id for sent in caller.fake.sent}) == 1


def test_attempts_end(caller):
    errors = [Overloaded(str(number)) for number in range(9)]
    assert caller.follow(FakeTransport(*errors)).error is errors[3]


@pytest.mark.parametrize("error", [Overloaded("full"), NotConnected("refused"), Unreachable("broke")])
def test_after_the_first_event_nothing_is_tried_again(caller, error):
    caller.follow(Breaking(error, after=1), retry=RetryPolicy(retried=(Overloaded, NotConnected, Unreachable)))
    assert caller.events == [Progress(0, 0, 50)]
    assert caller.error is error
    assert len(caller.fake.sent) == 1


@pytest.mark.parametrize("error", [Overloaded("stopping"), Unreachable("broke"), Cancelled("stopping")])
def test_failing_over_a_stream_begins_anew_while_it_has_no_image(caller, error):
    fake = Breaking(error, after=2)
    caller.follow(fake, retry=replace(FAIL_OVER, attempts=3), num_inference_steps=2)
    assert caller.error is error
    assert caller.events == [Progress(0, 0, 2), Progress(0, 1, 2)] * 3
    assert len({sent.request_id for sent in fake.sent}) == 1


def test_failing_over_a_stream_that_gave_its_image_is_left_alone(caller):
    caller.follow(Breaking(Unreachable("broke"), after=4), retry=FAIL_OVER, num_inference_steps=2)
    assert isinstance(caller.events[-1], ImageResult)
    assert isinstance(caller.error, Unreachable)
    assert len(caller.fake.sent) == 1


def test_a_stream_that_ends_without_an_image_is_the_servers_mistake(caller):
    caller.follow(Breaking(None, after=2))
    assert len(caller.events) == 2
    assert isinstance(caller.error, GenerationFailed)
    assert str(caller.error) == "flux_stream: the stream ended without an image"


def test_no_attempt_starts_after_the_deadline(caller):
    caller.follow(FakeTransport(*[Overloaded("full")] * 9), timeout_s=2.5)
    assert isinstance(caller.error, Overloaded)
    assert caller.clock.now_s == pytest.approx(101)


def test_a_deadline_that_passes_while_waiting_is_told(caller):
    def oversleep():
        caller.clock.now_s += 60

    caller.clock.on_sleep = oversleep
    caller.follow(FakeTransport(Overloaded("full")), timeout_s=10)
    assert isinstance(caller.error, DeadlineExceeded)


@pytest.mark.parametrize("retry", [STEADY, FAIL_OVER])
def test_a_cancelled_stream_says_so_and_its_call_is_ended(caller, retry):
    caller.follow(FakeTransport(), stop_after=2, retry=retry)
    assert len(caller.events) == 2
    assert isinstance(caller.error, Cancelled)
    assert [stream.cancelled for stream in caller.fake.streams] == [True]


def test_cancelling_while_it_waits_for_the_next_attempt_ends_it_soon_and_sends_nothing(caller):
    caller.clock.on_sleep = lambda: caller.stream.cancel()
    caller.follow(FakeTransport(Overloaded("full")))
    assert isinstance(caller.error, Cancelled)
    assert caller.clock.now_s < 100.2
    assert len(caller.fake.sent) == 1


def test_a_finished_stream_is_not_cancelled_and_has_no_more(caller):
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
def test_what_breaks_the_contract_is_refused_before_anything_is_sent(caller, options, error):
    fake = FakeTransport()
    try:
        caller.follow(fake, **options)
    except (InvalidRequest, TypeError) as raised:
        caller.error = raised
    assert isinstance(caller.error, error)
    assert fake.sent == []


def test_the_request_is_on_its_way_when_stream_returns():
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


def test_an_async_stream_ends_with_the_task_that_waits_for_it():
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


def test_an_async_stream_that_is_never_asked_sends_nothing():
    transport = AsyncFakeTransport()

    async def run():
        AsyncFluxClient(transport=transport).stream(png()).cancel()

    asyncio.run(run())
    assert transport.fake.sent == []


def test_cancelling_meets_a_thread_that_waits_for_an_event():
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
        with pytest.raises(Cancelled, match="by its caller"):
            next(stream)
    assert time.monotonic() - started < 2


def test_a_stream_that_fails_here_is_ended_at_the_server(caller):
    class Senseless(FakeTransport):
        def stream(self, *arguments):
            answers = super().stream(*arguments)
            answers._answers = iter([{"PROGRESS": np.zeros((1, 2), np.int32)}])
            return answers

    caller.follow(Senseless())
    assert isinstance(caller.error, GenerationFailed)
    caller.stream.cancel()
    assert caller.fake.streams[0].cancelled


def test_an_answer_that_tells_nothing_is_passed_over(caller):
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
def test_an_answer_outside_the_contract_is_the_servers_mistake(answer):
    with pytest.raises(GenerationFailed, match="flux_stream"):
        read_events(answer)
