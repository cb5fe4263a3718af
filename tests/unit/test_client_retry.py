from __future__ import annotations

import asyncio
from io import BytesIO

import pytest
from PIL import Image

from flux_client import (
    FAIL_OVER,
    AsyncFluxClient,
    Cancelled,
    DeadlineExceeded,
    FluxClient,
    GenerationFailed,
    InvalidRequest,
    NotConnected,
    Overloaded,
    RetryPolicy,
    Unreachable,
)
from flux_client.fake import AsyncFakeTransport, FakeTransport

STEADY = RetryPolicy(attempts=4, first_delay_s=1.0, max_delay_s=3.0, jitter=0.0)


def png():
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    return buffer.getvalue()


class Clock:
    """A clock that only sleeping advances."""

    def __init__(self):
        self.now_s = 100.0
        self.slept_s = []

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.slept_s.append(seconds)
        self.now_s += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)


class Outcome:
    """One call of a client, synchronous or not, of a fake server that raises `errors` first."""

    def __init__(self, kind, errors, *, retry=STEADY, timeout_s=60.0):
        self.clock = Clock()
        self.error = None
        self.variations = []
        try:
            if kind == "sync":
                self.fake = FakeTransport(*errors)
                client = FluxClient(transport=self.fake, retry=retry, clock=self.clock, sleep=self.clock.sleep)
                self.variations = client.redux(png(), timeout_s=timeout_s)
            else:
                transport = AsyncFakeTransport(*errors)
                self.fake = transport.fake
                client = AsyncFluxClient(
                    transport=transport, retry=retry, clock=self.clock, sleep=self.clock.sleep_async
                )
                self.variations = asyncio.run(client.redux(png(), timeout_s=timeout_s))
        except Exception as error:
            self.error = error


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.mark.parametrize("error", [Overloaded("full"), NotConnected("refused")])
def test_a_rejection_before_any_work_is_retried(kind, error):
    outcome = Outcome(kind, [error, error])
    assert len(outcome.variations) == 1
    assert outcome.clock.slept_s == [1.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("wrong"),
        Unreachable("broke under the request"),
        DeadlineExceeded("late"),
        Cancelled("stopped"),
        GenerationFailed("bug"),
    ],
)
def test_other_errors_are_not_retried(kind, error):
    outcome = Outcome(kind, [error])
    assert outcome.error is error
    assert outcome.clock.slept_s == []


def test_delays_double_up_to_the_maximum_and_attempts_are_limited(kind):
    errors = [Overloaded(str(number)) for number in range(9)]
    outcome = Outcome(kind, errors)
    assert outcome.error is errors[3]
    assert outcome.clock.slept_s == [1.0, 2.0, 3.0]


def test_no_retry_starts_after_the_deadline(kind):
    outcome = Outcome(kind, [Overloaded("full")] * 4, timeout_s=2.5)
    assert isinstance(outcome.error, Overloaded)
    assert outcome.clock.slept_s == [1.0]


def test_each_attempt_has_the_remaining_time_and_the_same_request_id(kind):
    outcome = Outcome(kind, [Overloaded("full")] * 2, timeout_s=10.0)
    assert [sent.timeout_s for sent in outcome.fake.sent] == [10.0, 9.0, 7.0]
    assert len({sent.request_id for sent in outcome.fake.sent}) == 1
    assert outcome.fake.sent[0].request_id


def test_a_broken_connection_is_retried_if_the_policy_says_so(kind):
    outcome = Outcome(kind, [Unreachable("broke")], retry=RetryPolicy(retried=(Unreachable,)))
    assert len(outcome.variations) == 1


@pytest.mark.parametrize("error", [Overloaded("stops"), Unreachable("broke"), Cancelled("the server is stopping")])
def test_fail_over_retries_a_lost_request_on_another_server(kind, error):
    assert len(Outcome(kind, [error], retry=FAIL_OVER).variations) == 1


def test_one_attempt_means_no_retry(kind):
    assert isinstance(Outcome(kind, [Overloaded("full")], retry=RetryPolicy(attempts=1)).error, Overloaded)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number_of_seconds(kind, timeout_s):
    assert isinstance(Outcome(kind, [], timeout_s=timeout_s).error, InvalidRequest)


def test_jitter_shortens_a_delay_by_at_most_its_share():
    for _ in range(50):
        assert all(0.5 <= delay_s <= 1 for delay_s in RetryPolicy(first_delay_s=1, max_delay_s=1).delays_s())


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"first_delay_s": -1.0}, {"first_delay_s": 9.0, "max_delay_s": 1.0}, {"jitter": 2.0}]
)
def test_rejects_an_invalid_policy(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


class SlowToStart(FakeTransport):
    """A transport whose readiness checks raise or return the `looks` in order."""

    def __init__(self, *looks):
        super().__init__()
        self.looks = list(looks)

    def is_ready(self, model, timeout_s):
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look


class AsyncSlowToStart(AsyncFakeTransport):
    def __init__(self, *looks):
        super().__init__()
        self.fake = SlowToStart(*looks)


def wait(kind, timeout_s, *looks, on_wait=None):
    clock = Clock()
    if kind == "sync":
        client = FluxClient(transport=SlowToStart(*looks), clock=clock, sleep=clock.sleep)
        client.wait_until_ready(timeout_s, on_wait=on_wait)
    else:
        client = AsyncFluxClient(transport=AsyncSlowToStart(*looks), clock=clock, sleep=clock.sleep_async)
        asyncio.run(client.wait_until_ready(timeout_s, on_wait=on_wait))
    return clock.now_s - 100


def test_wait_until_ready_waits_while_the_server_is_unreachable_hangs_and_loads(kind):
    waited_s = wait(kind, 60, NotConnected("refused"), Unreachable("broke"), DeadlineExceeded("hung"), False, True)
    assert 0 < waited_s < 10


def test_wait_until_ready_gives_up_in_time_with_the_last_reason(kind):
    with pytest.raises(DeadlineExceeded, match=r"did not become ready in time: .*not ready"):
        wait(kind, 30, False)
    with pytest.raises(DeadlineExceeded, match=r"did not become ready in time: refused"):
        wait(kind, 30, NotConnected("refused"))


def test_wait_until_ready_reports_each_failed_check(kind):
    reasons = []
    wait(kind, 60, NotConnected("refused"), False, True, on_wait=lambda error: reasons.append(str(error)))
    assert reasons == ["refused", "the server responds, but flux_redux is not ready"]


def test_wait_until_ready_raises_other_errors_at_once(kind):
    with pytest.raises(InvalidRequest):
        wait(kind, 30, InvalidRequest("no access"))


def test_a_timeout_in_a_later_attempt_reports_the_total_time(kind):
    late = DeadlineExceeded("no response from localhost:8001 within 0.7 s")
    outcome = Outcome(kind, [Overloaded("full"), late], timeout_s=8.0)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert str(outcome.error) == f"{late} in attempt 2; timeout_s=8 has passed"
    assert Outcome(kind, [late], timeout_s=8.0).error is late
