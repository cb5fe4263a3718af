"""During each attack, the gateway answers its health check and another client keeps receiving its images.

`pytest -s tests/live/test_attacks.py --attack-seconds 20` prints the figures of a longer run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from hostile.attacks import ATTACKS
from hostile.cases import Targets
from raw import wait_until_healthy
from witnesses import HonestClient, Pulse, private_memory

pytestmark = pytest.mark.live

#: Limit of the health check's 99th percentile, in seconds; generous, because CI machines are noisy.
HEALTH_P99_S = 1.0
#: Bytes by which all processes together may grow: right after an attack, as the limits of the gateway and of the
#: models' queues allow, and some time after all attacks.
GROWN_BYTES, KEPT_BYTES = 1.5e9, 250e6
#: Seconds until freed memory has returned to the system; models return it once a minute.
RETURN_S = 100.0


@pytest.fixture(scope="module")
def attacked(
    demo_server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Targets, Gateway, dict[str, int]]]:
    """Yields a separate gateway, so that attacks use up no limits of other tests, and the initial bytes by process."""
    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("attacked") / "gateway.log"
    with log.open("wb") as output, Gateway(demo_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        targets = Targets(demo_server.grpc_url, demo_server.http_url, gateway.url)
        ATTACKS["flood_of_images"].run(targets, 1)
        before = private_memory(demo_server, gateway.pid)
        yield targets, gateway, before
        targets.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_disturbs_neither_the_health_check_nor_an_honest_client(
    attacked: tuple[Targets, Gateway, dict[str, int]], demo_server: TritonServer, pytestconfig: pytest.Config, name: str
) -> None:
    targets, gateway, _ = attacked
    before = sum(private_memory(demo_server, gateway.pid).values())
    honest, pulse = HonestClient(demo_server.grpc_url), Pulse(gateway.url)
    honest.start()
    pulse.start()
    while not honest.images:
        time.sleep(0.05)
    images = honest.images
    blows = ATTACKS[name].run(targets, pytestconfig.getoption("--attack-seconds"))
    images = honest.images - images
    pulse.end()
    honest.end()
    grown = sum(private_memory(demo_server, gateway.pid).values()) - before
    seconds = sorted(seconds for _, seconds in pulse.answers)
    p99 = seconds[len(seconds) * 99 // 100]
    print(
        f"{name:28} {blows:6} blows, health p99 {1000 * p99:6.0f} ms, {images:4} honest images, {grown / 1e6:+6.0f} MB"
    )
    assert blows > 0
    assert not honest.failures, honest.failures[:10]
    assert images > 0
    assert {status for status, _ in pulse.answers} == {200}
    assert p99 < HEALTH_P99_S
    assert grown < GROWN_BYTES
    assert demo_server.poll() is None


def test_unknown_method_or_path_is_not_a_metric_label(attacked: tuple[Targets, Gateway, dict[str, int]]) -> None:
    targets, gateway, _ = attacked
    ATTACKS["unknown_methods_and_paths"].run(targets, 0.5)
    page = httpx.get(f"{gateway.url}/metrics", timeout=10).text
    assert "BREW" not in page
    assert len(page.splitlines()) < 2000
    assert Path(f"/proc/{gateway.pid}").exists()


def test_memory_returns_to_its_level_after_the_attacks(
    attacked: tuple[Targets, Gateway, dict[str, int]], demo_server: TritonServer
) -> None:
    _, gateway, before = attacked
    until = time.monotonic() + RETURN_S
    while sum((kept := _grown(before, private_memory(demo_server, gateway.pid))).values()) > KEPT_BYTES / 1e6:
        assert time.monotonic() < until, f"MB kept: {kept}"
        time.sleep(2)
    print(f"MB kept after all attacks: {kept}")


def _grown(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """Returns the growth in megabytes, by process."""
    return {name: round((now[name] - before[name]) / 1e6) for name in now}
