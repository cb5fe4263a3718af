"""The launcher restarts dead processes, the probe checks the services, and no process outlives the server."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flux_client import FAIL_OVER, FluxClient
from images import drawn_image
from launched import Launched, launched, processes_of_group, stub_of, wait_for
from mixed_load import Mix, MixedLoad

pytestmark = pytest.mark.live

#: Seconds within which a restarted demo serves again; 15 on an idle machine.
RESTART_S = 240.0
#: Seconds within which the processes of a dead server end.
END_S = 60.0
TEXT = {"mode": "text2img", "prompt": "red apple", "height": 64, "width": 64, "num_inference_steps": 2}


class Asking(threading.Thread):
    """Posts `/generate` repeatedly. answers: counts by status, with the messages of statuses other than 200."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[str] = Counter()
        self._url = url
        self._ended = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as http:
            while not self._ended.wait(0.2):
                answer = http.post("/generate", json=TEXT)
                words = "" if answer.status_code == 200 else f": {answer.json()['error']}"
                self.answers[f"{answer.status_code}{words}"] += 1

    def end(self) -> None:
        self._ended.set()
        self.join(120)
        assert not self.is_alive()


@contextmanager
def loaded(server: Launched) -> Iterator[None]:
    """Run the mixed load during the block. Every call must end."""
    mix = Mix(grpc=2, http=2, streams=2, rest=1)
    load = MixedLoad(server.grpc_url, server.http_url, server.rest_url, mix)
    thread = threading.Thread(target=load.run, args=(600,), daemon=True)
    thread.start()
    wait_for(lambda: load.count("right") > 0, 60, "no request was answered")
    try:
        yield
    finally:
        load.stop()
        thread.join(120)
    assert not thread.is_alive(), "a call hangs"
    assert not load.count("wrong"), load.messages


def serves(server: Launched) -> bool:
    try:
        return httpx.post(f"{server.rest_url}/generate", json=TEXT, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def restarts(server: Launched, pid: int, number: signal.Signals, old: int) -> float:
    """Kill this process of the server, under load. Returns the seconds until it serves again."""
    with loaded(server):
        asking = Asking(server.rest_url)
        asking.start()
        os.kill(pid, number)
        wait_for(lambda: not processes_of_group(old), RESTART_S, "the old Triton is still there")
        seconds = wait_for(lambda: server.triton() != old and serves(server), RESTART_S, "it does not serve again")
        asking.end()
    print(f"\nkilled by {number.name}, it served again after {seconds:.1f} s: {dict(asking.answers)}")
    refused = [words for words in asking.answers if not words.startswith("200")]
    assert refused, "nothing was asked meanwhile"
    assert all(words.startswith("503") for words in refused), asking.answers
    return seconds


@pytest.mark.timeout(1200)
def test_dead_processes_are_restarted_up_to_the_limit_and_leave_nothing(tmp_path: Path) -> None:
    with launched(tmp_path) as server:
        assert server.probe() == ""
        old = server.triton()
        restarts(server, old, signal.SIGSEGV, old)
        assert server.probe() == ""

        old = server.triton()
        with FluxClient(server.grpc_url, retry=FAIL_OVER) as client:
            restarts(server, stub_of("flux_base", old), signal.SIGKILL, old)
            assert client.redux(drawn_image(1), num_inference_steps=2)

        gateway = server.child("flux_gateway")
        assert gateway is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        gateway.kill()
        assert server.probe() == f"probe: the gateway at 127.0.0.1:{server.rest_port} does not answer"
        os.kill(server.process.pid, signal.SIGCONT)
        server.wait_until_said("the gateway is ready again")
        wait_for(lambda: serves(server), 60, "the new gateway does not serve")

        said = "".join(server.log)
        assert "Triton ended with signal 11 (SIGSEGV); restarting it in 0.5 s (attempt 1 of 5)" in said
        assert "a process of flux_base has ended; Triton's log may say why; restarting it in" in said
        assert "the gateway ended with signal 9 (SIGKILL); restarting it in" in said
        server.groups.discard(server.triton())
        assert [left for left in server.left() if left.startswith("process")] == []

        while server.process.poll() is None:
            if (triton := server.triton_or_end()) is not None:
                os.kill(triton, signal.SIGKILL)
            time.sleep(0.1)
        assert server.process.returncode == 1
        server.wait_until_said("scripts/serve: Triton ended with signal 9 (SIGKILL); gave up after 6 failures in a row")
        assert server.left() == []
        assert list(tmp_path.glob("flux-triton-[!s]*")) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["starting", "serving", "stopping"])
def test_no_process_outlives_a_launcher_that_is_killed(tmp_path: Path, moment: str) -> None:
    server = Launched(tmp_path, rest=False)
    try:
        group = server.triton()
        if moment == "starting":
            wait_for(lambda: len(processes_of_group(group)) > 2, 60, "no model's process")
        else:
            server.wait_until_said("ready: ")
        if moment == "stopping":
            server.process.send_signal(signal.SIGINT)
            server.wait_until_said("unloading models")
        if moment == "serving":
            # Without the guardian, Triton gets a signal when its parent ends, and the models notice the end of Triton.
            guardian = server.child("ending.py")
            assert guardian is not None
            guardian.kill()
            server.process.kill()
            os.kill(group, signal.SIGKILL)
        server.process.kill()
        print(f"\n{moment}: all gone after {wait_for(lambda: not processes_of_group(group), END_S, moment):.1f} s")
        if moment != "serving":
            wait_for(lambda: not server.left(), 10, "regions of shared memory are left")
    finally:
        server.end()
