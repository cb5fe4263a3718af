"""Handover of flux_base requests between instances, through a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import fake_triton

fake_triton.install()

from flux_contract.errors import DeadlineExceeded, GenerationFailed, InvalidRequest, Overloaded  # noqa: E402
from flux_contract.internal_tensors import OUTPUT_SEED, PIXELS  # noqa: E402
from flux_contract.tensors import Array  # noqa: E402
from flux_serving.backend.handover import Handover, HandoverServer, NotTaken  # noqa: E402
from flux_serving.backend.reply import Reply  # noqa: E402
from flux_serving.backend.server_folder import ServerFolder  # noqa: E402
from flux_serving.backend.tensor_message import pack_message, unpack_message  # noqa: E402
from waiting import within  # noqa: E402

VALUES = {
    "CONTEXT": np.arange(6, dtype=np.float32).reshape(2, 3),
    "SEED": np.array([7], np.int64),
    "LORA": np.array([b"a", "ü".encode()], dtype=object),
}
Take = Callable[[Reply, Mapping[str, Array]], None]


class Caller:
    """The reply of the instance that hands the request over."""

    request_id = "a request"
    wanted = frozenset({"PIXELS", "OUTPUT_SEED"})
    timeout_us = 5_000_000


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    made = ServerFolder(tmp_path / "server")
    made.make()
    return made


@pytest.fixture
def served(folder: ServerFolder) -> Iterator[Callable[[Take], HandoverServer]]:
    servers = []

    def serve(take: Take) -> HandoverServer:
        servers.append(HandoverServer(folder, "b", take))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def handover(folder: ServerFolder, is_alive: Callable[[str, float], bool] = lambda instance, seconds: True) -> Handover:
    return Handover(folder, "b", Caller(), VALUES, is_alive)  # type: ignore[arg-type]


def test_tensors_survive_a_message() -> None:
    texts = np.empty((2, 1), dtype=object)
    texts[:, 0] = [b"", "\N{SNOWMAN}"]
    given = {**VALUES, "TEXTS": texts, "NONE": np.zeros((0, 3), np.float32), "NO_TEXT": np.empty(0, dtype=object)}
    values, about = unpack_message(pack_message(given, {"request_id": "ü"}))
    assert about == {"request_id": "ü"}
    assert values.keys() == given.keys()
    for name in ("CONTEXT", "SEED", "NONE"):
        assert values[name].dtype == given[name].dtype
        np.testing.assert_array_equal(values[name], given[name])
    assert values["LORA"].tolist() == [b"a", "ü".encode()]
    assert values["TEXTS"].tolist() == [[b""], ["\N{SNOWMAN}".encode()]]
    assert values["NO_TEXT"].shape == (0,)


def test_handover_returns_requested_outputs(folder: ServerFolder, served: Callable[[Take], object]) -> None:
    taken = []

    def take(reply: Reply, values: Mapping[str, Array]) -> None:
        taken.append((reply.request_id, reply.timeout_us, values))
        reply.accepted()
        reply.answer({PIXELS: np.full((1, 2, 2, 3), 9, np.uint8), OUTPUT_SEED: np.array([7])})

    served(take)
    outputs = handover(folder).run()
    assert set(outputs) == {PIXELS, OUTPUT_SEED}
    assert outputs[PIXELS].tolist() == np.full((1, 2, 2, 3), 9).tolist()
    ((request_id, timeout_us, values),) = taken
    assert (request_id, timeout_us) == ("a request", 5_000_000)
    np.testing.assert_array_equal(values["CONTEXT"], VALUES["CONTEXT"])
    assert values["LORA"].tolist() == VALUES["LORA"].tolist()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequest("SEED: \udcff"), InvalidRequest),
        (GenerationFailed("broken"), GenerationFailed),
        (Overloaded("stopping"), Overloaded),
        (DeadlineExceeded("late"), Overloaded),  # They share a code.
        (KeyError("unforeseen"), GenerationFailed),
    ],
)
def test_handover_returns_error_of_same_type(
    folder: ServerFolder, served: Callable[[Take], object], error: Exception, expected: type[Exception]
) -> None:
    def take(reply: Reply, values: Mapping[str, Array]) -> None:
        reply.accepted()
        reply.refuse(error)

    served(take)
    with pytest.raises(expected, match="flux_base: "):
        handover(folder).run()


def fail(reply: Reply) -> None:
    raise RuntimeError("a fault")


def answer_what_cannot_be_sent(reply: Reply) -> None:
    reply.answer({PIXELS: np.array([object()], dtype=object)})


@pytest.mark.parametrize(
    ("act", "expected"),
    [(fail, "unexpected RuntimeError"), (answer_what_cannot_be_sent, "unexpected TypeError")],
)
def test_failure_of_taker_is_reported(
    folder: ServerFolder, served: Callable[[Take], object], act: Callable[[Reply], None], expected: str
) -> None:
    def take(reply: Reply, values: Mapping[str, Array]) -> None:
        reply.accepted()
        act(reply)

    served(take)
    with pytest.raises(GenerationFailed, match=expected):
        handover(folder).run()


def test_request_stays_if_taker_has_no_room(folder: ServerFolder, served: Callable[[Take], object]) -> None:
    served(lambda reply, values: reply.refuse(Overloaded("no room")))
    refused = handover(folder)
    with pytest.raises(NotTaken, match="no room"):
        refused.run()
    assert not refused.is_accepted
    np.testing.assert_array_equal(refused.values()["CONTEXT"], VALUES["CONTEXT"])


def test_request_stays_if_instance_does_not_exist(folder: ServerFolder, served: Callable[[Take], object]) -> None:
    with pytest.raises(NotTaken):
        handover(folder).run()
    server = HandoverServer(folder, "b", lambda reply, values: None)
    server.close()
    with pytest.raises(NotTaken):
        handover(folder).run()
    assert list(folder.path.iterdir()) == []


@pytest.fixture
def frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_serving.backend.handover._LOOK_S", 0.05)


@pytest.mark.usefixtures("frequent_checks")
def test_request_stays_if_instance_does_not_respond(folder: ServerFolder, served: Callable[[Take], object]) -> None:
    served(lambda reply, values: None)
    with pytest.raises(NotTaken, match="b does not respond"):
        handover(folder, is_alive=lambda instance, seconds: False).run()


@pytest.mark.usefixtures("frequent_checks")
def test_reports_instance_that_stops_responding_after_acceptance(
    folder: ServerFolder, served: Callable[[Take], object]
) -> None:
    served(lambda reply, values: reply.accepted())
    with pytest.raises(Overloaded, match="b ended while it worked on the request"):
        handover(folder, is_alive=lambda instance, seconds: False).run()


@pytest.mark.usefixtures("frequent_checks")
def test_unaccepted_request_times_out_sooner_than_accepted_one(
    folder: ServerFolder, served: Callable[[Take], object]
) -> None:
    asked: list[float] = []

    def is_alive(instance: str, seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) < 3

    accepts = threading.Event()

    def take(reply: Reply, values: Mapping[str, Array]) -> None:
        if accepts.is_set():
            reply.accepted()

    served(take)
    with pytest.raises(NotTaken):
        handover(folder, is_alive).run()
    before_acceptance = max(asked)
    asked.clear()
    accepts.set()
    with pytest.raises(Overloaded):
        handover(folder, is_alive).run()
    assert before_acceptance < asked[-1]


def test_replaces_socket_of_killed_process(folder: ServerFolder) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(folder.path / "calls-b"))
    left.close()
    HandoverServer(folder, "b", lambda reply, values: None).close()
    assert list(folder.path.iterdir()) == []


def test_cancelling_handover_ends_the_work(folder: ServerFolder, served: Callable[[Take], object]) -> None:
    taken = threading.Event()
    replies: list[Reply] = []

    def take(reply: Reply, values: Mapping[str, Array]) -> None:
        reply.accepted()
        replies.append(reply)
        taken.set()

    served(take)
    given = handover(folder)

    def run() -> None:
        with pytest.raises(Overloaded):
            given.run()

    running = threading.Thread(target=run)
    running.start()
    assert taken.wait(5)
    assert replies[0].is_awaited()
    given.cancel()
    running.join(5)
    assert not running.is_alive()
    assert within(5, lambda: not replies[0].is_awaited())
    # A late answer is ignored.
    replies[0].answer({PIXELS: np.zeros((1, 2, 2, 3), np.uint8)})
