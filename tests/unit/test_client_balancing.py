"""The policy that chooses a server, with a clock that the test sets."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from flux_client import balancing
from flux_client.balancing import Balancer, Reading

IDLE = Reading(seconds_left=0.0, room=64)
BUSY = Reading(seconds_left=30.0, room=64, job_s=1.0)
FULL = Reading(seconds_left=60.0, room=0, instances=0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def balancer_of(clock: Clock, **readings: Reading | None) -> Balancer:
    """Returns a balancer in use, with these readings; None for a server that has not reported."""
    balancer = Balancer(readings, clock, random.Random(7))
    balancer.choose()
    report(balancer, **readings)
    return balancer


def report(balancer: Balancer, **readings: Reading | None) -> None:
    for server, reading in readings.items():
        assert balancer.wants_reading(server)
        if reading is not None:
            balancer.reported(server, reading)


def shares(balancer: Balancer, count: int = 300, *, in_work: bool = False) -> Counter[str]:
    """Returns how often each server is chosen. in_work: whether the requests stay in flight."""
    chosen: Counter[str] = Counter()
    for _ in range(count):
        server = balancer.choose()
        chosen[server] += 1
        if in_work:
            balancer.began(server)
    return chosen


def test_chooses_the_less_loaded_of_two_servers(clock: Clock) -> None:
    assert shares(balancer_of(clock, a=BUSY, b=IDLE)) == {"b": 300}


def test_chooses_the_least_loaded_of_many_servers(clock: Clock) -> None:
    assert shares(balancer_of(clock, a=BUSY, b=IDLE, c=BUSY._replace(seconds_left=10.0))) == {"b": 300}


def test_a_server_with_unknown_load_gets_its_share(clock: Clock) -> None:
    assert shares(balancer_of(clock, a=BUSY, b=IDLE, c=None)) == {"b": 200, "c": 100}


def test_clients_do_not_all_start_with_the_same_server(clock: Clock) -> None:
    first = Counter(Balancer("abc", clock, random.Random(seed)).choose() for seed in range(300))
    assert all(70 < count < 130 for count in first.values())


def test_a_full_server_is_chosen_only_if_all_are_full(clock: Clock) -> None:
    assert shares(balancer_of(clock, a=FULL, b=BUSY, c=None)) == {"b": 150, "c": 150}
    assert shares(balancer_of(clock, a=FULL, b=FULL._replace(seconds_left=50.0))) == {"b": 300}


def test_load_decreases_between_two_readings(clock: Clock) -> None:
    balancer = balancer_of(clock, a=Reading(4.0, room=64), b=None)
    clock.now += 3.0
    balancer.wants_reading("b")
    balancer.reported("b", Reading(2.0, room=64))
    assert shares(balancer) == {"a": 300}


def test_load_is_unknown_after_an_old_reading(clock: Clock) -> None:
    balancer = balancer_of(clock, a=BUSY, b=IDLE)
    clock.now += balancing.READING_LIFE_S + 0.1
    assert shares(balancer) == {"a": 150, "b": 150}


def test_servers_that_have_not_reported_are_chosen_in_turn(clock: Clock) -> None:
    balancer = Balancer("abc", clock, random.Random(7))
    chosen = [balancer.choose() for _ in range(6)]
    assert set(chosen[:3]) == set("abc")
    assert chosen[3:] == chosen[:3]


def test_idle_servers_are_chosen_in_turn(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=IDLE)
    assert shares(balancer) == {"a": 150, "b": 150}


def test_a_burst_between_two_readings_goes_to_all_servers(clock: Clock) -> None:
    """The idle server first gets requests until its load equals the others', then all take turns."""
    balancer = balancer_of(clock, a=BUSY, b=IDLE, c=BUSY)
    chosen = shares(balancer, 100, in_work=True)
    assert 45 <= chosen["b"] <= 65
    assert abs(chosen["a"] - chosen["c"]) <= 6


def test_a_server_with_two_instances_gets_twice_as_many_requests_of_a_burst(clock: Clock) -> None:
    balancer = balancer_of(clock, a=Reading(1.0, 128, 2, job_s=1.0), b=Reading(1.0, 64, 1, job_s=1.0))
    chosen = shares(balancer, 90, in_work=True)
    assert chosen["a"] == pytest.approx(60, abs=2)


def test_a_burst_stops_at_the_room_of_a_server(clock: Clock) -> None:
    balancer = balancer_of(clock, a=Reading(0.0, room=8), b=Reading(500.0, room=64, job_s=1.0))
    assert shares(balancer, 50, in_work=True) == {"a": 8, "b": 42}


def test_finished_requests_do_not_count(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=Reading(0.5, room=64, job_s=1.0))
    for _ in range(20):
        server = balancer.choose()
        assert server == "a"
        balancer.ended(balancer.began(server))


def test_a_request_sent_during_a_reading_counts_after_it(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=Reading(0.5, room=64))
    clock.now += 1.0
    assert balancer.wants_reading("a")
    clock.now += 0.1
    sent = balancer.began("a")
    balancer.reported("a", IDLE)
    assert shares(balancer) == {"b": 300}
    balancer.ended(sent)
    assert shares(balancer)["a"] > 0


def test_readings_are_wanted_once_a_second_while_the_client_is_in_use(clock: Clock) -> None:
    balancer = Balancer("ab", clock, random.Random(7))
    assert not balancer.wants_reading("a"), "nothing was sent yet"
    asked = 0
    for _ in range(100):
        balancer.choose()
        asked += balancer.wants_reading("a")
        clock.now += 0.1
    assert 9 <= asked <= 11
    clock.now += balancing.IN_USE_S + 1
    assert not balancer.wants_reading("a")


def test_a_single_server_is_not_read(clock: Clock) -> None:
    balancer = Balancer("a", clock, random.Random(7))
    balancer.choose()
    assert not balancer.wants_reading("a")


def test_a_failed_server_is_left_out_until_it_reports(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=BUSY)
    balancer.failed("a")
    assert shares(balancer) == {"b": 300}
    balancer.reported("a", IDLE)
    assert shares(balancer) == {"b": 300}, "this reading was asked for before"
    clock.now += balancing.FIRST_FAILURE_S
    assert shares(balancer) == {"b": 300}
    assert balancer.wants_reading("a")
    balancer.reported("a", IDLE)
    assert shares(balancer) == {"a": 300}


def test_a_failed_server_without_readings_is_retried_after_growing_delays(clock: Clock) -> None:
    balancer = balancer_of(clock, a=None, b=None)
    balancer.unsupported("a")
    waits = []
    for _ in range(7):
        balancer.failed("a")
        begun = clock.now
        while "a" not in shares(balancer, 4):
            clock.now += 0.125
        waits.append(clock.now - begun)
    assert waits == [0.5, 1, 2, 4, 8, 8, 8]
    balancer.ended(balancer.began("a"))
    balancer.failed("a")
    clock.now += 0.5
    assert "a" in shares(balancer, 4)


def test_requests_broken_by_one_failure_count_as_one(clock: Clock) -> None:
    balancer = balancer_of(clock, a=None, b=None)
    balancer.unsupported("a")
    for _ in range(20):
        balancer.failed("a")
    clock.now += balancing.FIRST_FAILURE_S
    assert "a" in shares(balancer, 4)


def test_if_all_servers_failed_they_take_turns(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=BUSY)
    chosen = []
    for _ in range(6):
        clock.now += 0.01
        chosen.append(balancer.choose())
        balancer.failed(chosen[-1])
    assert chosen in (["a", "b"] * 3, ["b", "a"] * 3)


def test_a_full_server_is_preferred_to_a_failed_one(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=IDLE)
    balancer.failed("a")
    balancer.refused("b")
    assert shares(balancer) == {"b": 300}


def test_a_server_that_rejected_a_request_is_left_out_briefly(clock: Clock) -> None:
    balancer = balancer_of(clock, a=IDLE, b=BUSY)
    balancer.refused("a")
    assert shares(balancer) == {"b": 300}
    clock.now += balancing.REFUSED_S
    assert shares(balancer) == {"a": 300}


def test_a_server_without_flux_status_has_unknown_load_and_is_rarely_read(clock: Clock) -> None:
    balancer = balancer_of(clock, a=None, b=IDLE)
    balancer.unsupported("a")
    assert shares(balancer) == {"a": 150, "b": 150}
    asked = 0
    for _ in range(120):
        balancer.choose()
        if balancer.wants_reading("a"):
            balancer.unsupported("a")
            asked += 1
        clock.now += 1.0
    assert asked == 1


def test_readiness_checks_go_to_each_server_in_turn(clock: Clock) -> None:
    balancer = balancer_of(clock, a=BUSY, b=IDLE, c=IDLE)
    assert Counter(balancer.choose_in_turn() for _ in range(30)) == {"a": 10, "b": 10, "c": 10}
    balancer.failed("c")
    assert Counter(balancer.choose_in_turn() for _ in range(30)) == {"a": 15, "b": 15}


def test_servers_can_be_added_and_removed(clock: Clock) -> None:
    balancer = balancer_of(clock, a=BUSY, b=IDLE)
    sent = balancer.began("b")
    balancer.update(["a", "c"])
    balancer.ended(sent)
    balancer.failed("b")
    assert not balancer.wants_reading("b")
    report(balancer, c=IDLE)
    assert shares(balancer) == {"c": 300}
    with pytest.raises(ValueError, match="no servers"):
        balancer.update([])


def test_a_reading_describes_the_least_loaded_instance_with_room() -> None:
    reading = Reading.of_instances([8.0, 2.0, 4.0], [4, 1, 2], [60, 0, 62])
    assert reading == Reading(4.0, room=122, instances=2, job_s=2.0)
    assert Reading.of_instances([], [], []).room == 0
