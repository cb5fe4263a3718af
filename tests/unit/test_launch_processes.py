"""Processes that end with their parent or their group, and the probe's view of a launcher."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flux_serving.launch import ending, probe
from flux_serving.launch.guardian import Guardian
from flux_serving.launch.processes import exit_reason, free_ports
from flux_serving.launch.state import RESTART_S, LauncherState, StateFile, running_launchers
from flux_serving.launch.urls import fetch, loopback_of
from waiting import within

pytestmark = pytest.mark.slow

#: Leads a group, prints the ids of two children, and keeps running after they end.
GROUP = """
import subprocess, sys, time
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
print(*(child.pid for child in children), flush=True)
children[0].wait()
time.sleep(600)
"""
#: Prints the id of a child that watches it.
WATCHED = """
import subprocess, sys, time
child = "from flux_serving.backend.parent import end_with_parent; import time; end_with_parent(); print(1, flush=True)"
print(subprocess.Popen([sys.executable, "-c", child + "; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def group() -> Iterator[tuple[int, list[int]]]:
    """Process ids of the leader and of its two children."""
    with subprocess.Popen([sys.executable, "-c", GROUP], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        yield leader.pid, [int(pid) for pid in leader.stdout.readline().split()]
        leader.kill()
        ending.kill_group(leader.pid)


def test_model_process_ends_when_its_parent_is_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", WATCHED], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"1\n"
        parent.kill()
        assert within(10, lambda: not ending.is_running(child))
        assert Path(f"/proc/{parent.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_stop_does_not_wait_for_models_that_never_unload(
    group: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, children = group
    monkeypatch.setattr(ending, "UNLOAD_S", 0.3)
    waiting = Thread(target=ending.wait_for_server, args=(leader, 600), daemon=True)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive(), "requests may still run"
    os.kill(children[0], signal.SIGKILL)
    waiting.join(10)
    assert not waiting.is_alive()
    assert ending.is_running(leader)


def test_kill_group_ends_all_processes(group: tuple[int, list[int]]) -> None:
    leader, children = group
    assert set(ending.members(leader)) == {leader, *children}
    ending.kill_group(leader)
    assert list(ending.members(leader)) == []


def test_guardian_cleans_up_when_launcher_dies(group: tuple[int, list[int]], tmp_path: Path) -> None:
    leader, _ = group
    prefix, folder = f"flux-triton-test-{os.getpid()}_", tmp_path / "server"
    region = Path("/dev/shm") / f"{prefix}region"
    region.touch()
    folder.mkdir()
    launcher = (
        "import sys, time; from flux_serving.launch.guardian import Guardian; "
        f"guardian = Guardian({leader}, 600, {prefix!r}, {str(folder)!r}); "
        "print(guardian.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        guardian = int(process.stdout.readline())
        assert list(ending.members(leader))
        process.kill()
        process.wait()
        assert within(20, lambda: not ending.is_running(guardian))
    assert list(ending.members(leader)) == []
    assert not region.exists()
    assert not folder.exists()


def test_dismissed_guardian_does_nothing(group: tuple[int, list[int]], tmp_path: Path) -> None:
    leader, children = group
    guardian = Guardian(leader, 600, "flux-triton-test-none_", str(tmp_path))
    guardian.server_is_ready()
    guardian.dismiss()
    assert set(ending.members(leader)) == {leader, *children}
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (-11, "signal 11 (SIGSEGV)"), (-35, "signal 35"), (1, "exit status 1")]
)
def test_exit_reason_describes_status_and_signal(status: int, words: str) -> None:
    assert exit_reason(status) == words


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1")]
)
def test_loopback_of_wildcard_address_is_loopback(host: str, reached: str) -> None:
    assert loopback_of(host) == reached


class Answering(BaseHTTPRequestHandler):
    """Returns 503 for every request, like a gateway without Triton."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_response_of_another_protocol_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\0\0\x12\4\0\0\0\0\0")

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="did not return an HTTP response"):
            fetch(f"http://127.0.0.1:{other.getsockname()[1]}/", 5)
        thread.join()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, without another launcher's state."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"flux-triton-serve-{os.geteuid()}"


def test_probe_reads_state_of_running_launcher(own_folder: Path) -> None:
    state = LauncherState("127.0.0.1:8010", "0.0.0.0:12411")
    file = StateFile()
    file.write(state)
    assert list(running_launchers()) == [state]
    # The launcher's process id was given to another process.
    (path,) = own_folder.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "1"}))
    assert list(running_launchers()) == []
    file.remove()
    assert list(own_folder.iterdir()) == []


def test_folder_open_to_other_users_is_neither_written_nor_read(own_folder: Path) -> None:
    file = StateFile()
    file.write(LauncherState("127.0.0.1:8010"))
    own_folder.chmod(0o755)
    assert list(running_launchers()) == []
    with pytest.raises(PermissionError, match="other users can enter"):
        file.write(LauncherState("127.0.0.1:8020"))


def test_probe_tolerates_restart_until_it_takes_too_long() -> None:
    (port,) = free_ports(1)
    probe.look_at_launcher(LauncherState(f"127.0.0.1:{port}", restarting_since=time.time() - 60), 1)
    with pytest.raises(probe.Dead, match=f"Triton at 127.0.0.1:{port} does not answer"):
        probe.look_at_launcher(LauncherState(f"127.0.0.1:{port}", restarting_since=time.time() - RESTART_S - 1), 1)


def test_probe_fails_for_silent_gateway_but_not_for_gateway_without_triton() -> None:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        state = LauncherState("127.0.0.1:1", f"0.0.0.0:{server.server_port}", restarting_since=time.time())
        probe.look_at_launcher(state, 5)
        server.shutdown()
        thread.join()
    with pytest.raises(probe.Dead, match=r"the gateway at 0\.0\.0\.0:\d+ does not answer"):
        probe.look_at_launcher(state, 1)
