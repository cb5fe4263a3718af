"""The files in which instances publish their work."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_serving.backend.server_folder import ServerFolder
from flux_serving.backend.work_board import DEAD_AFTER_S, InstanceWork, WorkBoard, WorkPost
from flux_serving.scheduling.job import JobLeft
from flux_serving.scheduling.placement import Backlog
from flux_serving.scheduling.step_costs import Costs


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    return ServerFolder(tmp_path / "server")


def work(instance: str, jobs: int = 0, room: int = 64) -> InstanceWork:
    left = [JobLeft(2**63 + number, 100 + number, 7, -1) for number in range(jobs)]
    return InstanceWork(instance, "cuda:7", Backlog(left, Costs(0.5, 0.25), room), 12.5)


def test_reads_written_work(folder: ServerFolder) -> None:
    posts = {name: WorkPost(folder, name, 64) for name in ("b", "a")}
    for name, post in posts.items():
        post.write(work(name, jobs=3))
    assert WorkBoard(folder).read() == [work("a", jobs=3), work("b", jobs=3)]


def test_fewer_jobs_replace_more_jobs(folder: ServerFolder) -> None:
    post = WorkPost(folder, "a", 64)
    post.write(work("a", jobs=64))
    post.write(work("a", jobs=1))
    assert WorkBoard(folder).read() == [work("a", jobs=1)]


def test_jobs_beyond_the_capacity_are_omitted(folder: ServerFolder) -> None:
    post = WorkPost(folder, "a", max_jobs=2)
    post.write(work("a", jobs=5))
    assert WorkBoard(folder).read() == [work("a", jobs=2)]


def test_an_instance_that_does_not_write_is_dead(folder: ServerFolder) -> None:
    clock = Clock()
    post = WorkPost(folder, "a", 64, clock)
    post.write(work("a"))
    board = WorkBoard(folder, clock)
    clock.now += DEAD_AFTER_S - 0.1
    assert board.read()
    clock.now += 0.2
    assert not board.read()
    assert board.read(dead_after_s=30)


def test_ignores_instance_that_has_ended_or_not_started(folder: ServerFolder) -> None:
    board = WorkBoard(folder)
    assert not board.read()
    post = WorkPost(folder, "a", 64)
    assert not board.read()
    post.write(work("a"))
    post.close()
    assert not board.read()
    assert not folder.path.exists()


def test_ignores_damaged_file(folder: ServerFolder) -> None:
    post = WorkPost(folder, "a", 64)
    post.write(work("a"))
    (folder.path / "work-b").write_bytes(b"short")
    assert [found.instance for found in WorkBoard(folder).read()] == ["a"]
