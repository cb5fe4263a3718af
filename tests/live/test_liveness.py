"""The liveness probe of the manifest, run as the kubelet runs it: its latency and its cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flux_client import FluxClient, FluxError, RetryPolicy
from flux_serving.launch.server import TritonServer
from images import drawn_image
from launched import stub_of
from manifests import rendered, triton_pods
from test_server_life import wait_until_denoising

pytestmark = pytest.mark.live

(POD,) = triton_pods(rendered("cpu-demo"))
PROBE: dict[str, Any] = POD.container()["livenessProbe"]


class Outcome(NamedTuple):
    failed: bool
    #: Wall-clock time and CPU time, in seconds.
    seconds: float
    cpu: float


def run_probe(server: TritonServer) -> Outcome:
    """Run the manifest's command beside Triton, with this server's port and this interpreter."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [*PROBE["exec"]["command"], f"--http-port={server.options.http_port}"]
    before, began = os.times(), time.monotonic()
    try:
        code = subprocess.run(command, env=environment, timeout=PROBE["timeoutSeconds"], capture_output=True).returncode
    except subprocess.TimeoutExpired:
        code = 1
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Outcome(code != 0, time.monotonic() - began, cpu)


def seconds_until_restart(server: TritonServer, died: float, next_look: float) -> float:
    """Run the probe every periodSeconds until the failure threshold. Returns the seconds since `died`.

    next_look: time of the first probe.
    """
    failures = 0
    while failures < PROBE["failureThreshold"]:
        time.sleep(max(0.0, next_look - time.monotonic()))
        failures = failures + 1 if run_probe(server).failed else 0
        next_look += PROBE["periodSeconds"]
        assert time.monotonic() < died + 300, "the probe does not see it"
    return time.monotonic() - died


def test_probe_detects_dead_process_within_its_periods(mortal_server: TritonServer) -> None:
    """Kill flux_base at the worst moment: just after a successful probe."""
    looked = time.monotonic()
    assert not run_probe(mortal_server).failed
    os.kill(stub_of("flux_base", mortal_server.pid), signal.SIGKILL)
    died = time.monotonic()
    took = seconds_until_restart(mortal_server, died, looked + PROBE["periodSeconds"])
    print(f"\nfrom the death to the verdict: {took:.1f} s")
    assert took <= PROBE["periodSeconds"] * PROBE["failureThreshold"] + PROBE["timeoutSeconds"]


def test_busy_server_passes_the_probe(mortal_server: TritonServer) -> None:
    """With eight images of 512x512 in progress on all cores, the probe responds in time and costs little."""

    def ask() -> None:
        once = RetryPolicy(attempts=1)
        # The server ends meanwhile.
        with suppress(FluxError), FluxClient(mortal_server.grpc_url, retry=once) as client:
            client.redux(drawn_image(1), num_images=8, height=512, width=512, num_inference_steps=100, timeout_s=600)

    idle = [run_probe(mortal_server) for _ in range(3)]
    caller = threading.Thread(target=ask)
    caller.start()
    wait_until_denoising(mortal_server)
    busy = [run_probe(mortal_server) for _ in range(5)]
    assert caller.is_alive(), "it was not busy for long enough"
    mortal_server.kill()
    caller.join(60)
    assert not caller.is_alive()
    assert not any(outcome.failed for outcome in (*idle, *busy))
    slowest, cpu = max(outcome.seconds for outcome in busy), max(outcome.cpu for outcome in (*idle, *busy))
    print(f"\nprobe: idle {idle[-1].seconds:.2f} s, busy {slowest:.2f} s at most, {cpu:.2f} s of CPU at most")
    assert slowest < PROBE["timeoutSeconds"] / 2
    assert cpu < PROBE["periodSeconds"] / 10, "more than a tenth of a core"
