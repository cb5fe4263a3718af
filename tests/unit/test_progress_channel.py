"""Progress datagrams: delivery, loss, rejected addresses, and clean-up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_contract.environment import FOLDER_VARIABLE
from flux_contract.errors import CannotStart, InvalidRequest
from flux_serving.backend.progress_channel import (
    MAX_PREVIEW_SIDE,
    PreviewMessage,
    ProgressFolder,
    ProgressMessage,
    ProgressReceiver,
    ProgressSender,
)


@pytest.fixture
def folder(tmp_path: Path) -> ProgressFolder:
    made = ProgressFolder(tmp_path / "progress")
    made.make()
    return made


@pytest.fixture
def channel(folder: ProgressFolder) -> Iterator[tuple[ProgressReceiver, ProgressSender]]:
    receiver = folder.listen()
    sender = folder.connect(receiver.address)
    yield receiver, sender
    sender.close()
    receiver.close()


def preview(side: int) -> PreviewMessage:
    return PreviewMessage(side, side, os.urandom(3 * side * side))


def test_progress_arrives_as_it_was_sent(channel: tuple[ProgressReceiver, ProgressSender]) -> None:
    receiver, sender = channel
    sent = [
        ProgressMessage(0, 0, 20),
        ProgressMessage(3, 7, 20),
        ProgressMessage(0, 1, 20, PreviewMessage(2, 1, b"abcdef")),
    ]
    for progress in sent:
        sender.send(progress)
    assert [receiver.receive(1) for _ in sent] == sent
    assert receiver.receive(0) is None


def test_the_largest_preview_fits_into_a_datagram(channel: tuple[ProgressReceiver, ProgressSender]) -> None:
    receiver, sender = channel
    sent = ProgressMessage(0, 1, 2, preview(MAX_PREVIEW_SIDE))
    sender.send(sent)
    assert receiver.receive(1) == sent


def test_preview_that_does_not_fit_is_omitted(channel: tuple[ProgressReceiver, ProgressSender]) -> None:
    receiver, sender = channel
    sender.send(ProgressMessage(0, 1, 2, preview(4 * MAX_PREVIEW_SIDE)))
    assert receiver.receive(1) == ProgressMessage(0, 1, 2)


def test_full_queue_drops_progress_without_blocking(channel: tuple[ProgressReceiver, ProgressSender]) -> None:
    receiver, sender = channel
    started = time.monotonic()
    for step in range(5000):
        sender.send(ProgressMessage(0, step, 5000, preview(8)))
    assert time.monotonic() - started < 5
    assert sender.is_heard()
    received = []
    while (progress := receiver.receive(0)) is not None:
        received.append(progress.steps_done)
    assert received[0] == 0
    assert received == sorted(received)
    sender.send(ProgressMessage(0, 5000, 5000))
    assert receiver.receive(1) == ProgressMessage(0, 5000, 5000)


def test_sender_detects_closed_receiver_without_sending(
    channel: tuple[ProgressReceiver, ProgressSender],
) -> None:
    receiver, sender = channel
    assert sender.is_heard()
    receiver.close()
    assert not sender.is_heard()
    sender.send(ProgressMessage(0, 1, 2))


def test_sender_detects_dead_receiver_by_sending(folder: ProgressFolder) -> None:
    """A dead process leaves its file behind, so the file does not show it."""
    code = (
        "import sys; from pathlib import Path; from flux_serving.backend.progress_channel import ProgressFolder\n"
        "receiver = ProgressFolder(Path(sys.argv[1])).listen(); print(receiver.address, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        sender = folder.connect(process.stdout.readline().strip())
        sender.send(ProgressMessage(0, 1, 3))
        assert sender.is_heard()
        process.kill()
    sender.send(ProgressMessage(0, 2, 3))
    assert not sender.is_heard()
    sender.close()


def test_a_closed_channel_leaves_no_file_and_no_folder(folder: ProgressFolder) -> None:
    receivers = [folder.listen() for _ in range(3)]
    folder.remove()
    assert len(list(folder.path.iterdir())) == 3
    for receiver in receivers:
        receiver.close()
        receiver.close()
    assert list(folder.path.iterdir()) == []
    folder.remove()
    assert not folder.path.exists()


def test_waking_ends_the_wait(channel: tuple[ProgressReceiver, ProgressSender]) -> None:
    receiver, _ = channel
    timer = threading.Timer(0.1, receiver.wake)
    timer.start()
    started = time.monotonic()
    assert receiver.receive(30) is None
    assert time.monotonic() - started < 10
    timer.join()


def test_malformed_datagrams_are_ignored(folder: ProgressFolder) -> None:
    receiver = folder.listen()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(str(folder.path / receiver.address))
        for datagram in (b"x", bytes(19), bytes(20) + b"x", b"\xff" * 20, b"\xff" * 4 + b"\x7f" + bytes(15)):
            stranger.send(datagram)
            assert receiver.receive(1) is None, datagram
    receiver.close()


@pytest.mark.parametrize(
    "address", ["../0123456789abcdef0123456789abcdef", "x", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "/tmp/x"]
)
def test_rejects_malformed_address(folder: ProgressFolder, address: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a valid progress address"):
        folder.connect(address)


def test_rejects_address_without_listener(folder: ProgressFolder, tmp_path: Path) -> None:
    receiver = folder.listen()
    elsewhere = ProgressFolder(tmp_path / "elsewhere")
    elsewhere.make()
    (elsewhere.path / ("a" * 32)).write_text("a file, no socket")
    (elsewhere.path / ("b" * 32)).symlink_to(folder.path / receiver.address)
    for address in ("0" * 32, "a" * 32, "b" * 32, receiver.address):
        with pytest.raises(InvalidRequest, match="is not an open progress address"):
            elsewhere.connect(address)
    receiver.close()


def test_both_sides_reject_folder_open_to_other_users(folder: ProgressFolder) -> None:
    receiver = folder.listen()
    folder.path.chmod(0o755)
    with pytest.raises(CannotStart, match=rf"other users can enter it; set {FOLDER_VARIABLE} to another folder"):
        folder.make()
    with pytest.raises(InvalidRequest, match="other users can enter it"):
        folder.connect(receiver.address)
    receiver.close()


def test_rejects_link_in_place_of_folder(folder: ProgressFolder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder.path)
    with pytest.raises(CannotStart):
        ProgressFolder(tmp_path / "link").make()


def test_error_names_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match=f"{tmp_path}/file/progress cannot hold the server's files: Not a directory"):
        ProgressFolder(tmp_path / "file" / "progress").make()


def test_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 150)
    long.mkdir()
    folder = ProgressFolder(long / "progress")
    folder.make()
    receiver = folder.listen()
    sender = folder.connect(receiver.address)
    sender.send(ProgressMessage(0, 1, 2))
    assert receiver.receive(1) == ProgressMessage(0, 1, 2)
    sender.close()
    receiver.close()


def test_folder_is_set_by_environment_variable(tmp_path: Path) -> None:
    assert ProgressFolder.of_server({FOLDER_VARIABLE: str(tmp_path)}).path == tmp_path


def test_processes_of_one_parent_agree_on_the_folder_and_others_do_not() -> None:
    code = "from flux_serving.backend.progress_channel import ProgressFolder; print(ProgressFolder.of_server({}).path)"
    one, other = (subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(2))
    assert one == other
    assert one != str(ProgressFolder.of_server({}).path)
    assert not Path(one).exists()
