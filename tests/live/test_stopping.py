"""Stopping after mixed traffic with cancelled streams takes little time and leaves nothing behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from launched import launched
from mixed_load import MixedLoad

pytestmark = pytest.mark.live

#: Seconds of traffic before each stop.
LOAD_S = 5.0
#: Seconds that a stop may take; 10 on an idle machine. A hung stop takes the exit timeout, 30.
STOP_S = 25.0


@pytest.mark.timeout(3600)
def test_server_stops_soon_after_mixed_traffic_and_leaves_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seconds = []
    for number in range(pytestconfig.getoption("--stops")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with launched(folder) as server:
            load = MixedLoad(server.grpc_url, server.http_url, server.rest_url, seed=number + 1)
            load.run(LOAD_S)
            began = time.monotonic()
            server.process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
            assert server.process.wait(120) == 0
            seconds.append(time.monotonic() - began)
            said = "".join(server.log)
            hung = "Timeout 25: Found" in said and "Timeout 26: Found 1 live models" in said
            print(
                f"stop {number}: {seconds[-1]:.1f} s{', with a model that was not unloaded' if hung else ''}",
                flush=True,
            )
            assert "scripts/serve: stopping" in said
            assert server.left() == []
    print(f"{len(seconds)} stops: {min(seconds):.1f} to {max(seconds):.1f} s")
    assert max(seconds) < STOP_S
