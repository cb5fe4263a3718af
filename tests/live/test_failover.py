"""Two real Tritons under load: requests that one loses when it is stopped or killed succeed on the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DEMO, ROOT
from flux_tools.failover.doors import client
from flux_tools.failover.play import Act, play
from flux_tools.failover.replica import Replica
from images import drawn_image, encoded

pytestmark = pytest.mark.live


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Replica]]:
    """Yields the servers, and checks that they leave nothing behind."""
    with (tmp_path / "log").open("wb") as log:
        two = [Replica(ROOT / "model_repository", DEMO, log) for _ in range(2)]
        try:
            for replica in two:
                replica.start()
            yield two
        finally:
            for replica in two:
                replica.stop()
    assert [each for replica in two for each in replica.left()] == []


def test_no_request_is_lost_when_one_of_two_is_restarted_and_the_other_killed(
    replicas: list[Replica], tmp_path: Path
) -> None:
    images = [encoded(drawn_image(number)) for number in range(8)]
    acts = (Act("restarted", 0, Replica.stop), Act("killed", 1, Replica.kill_triton))
    outcomes = play(replicas, client, tmp_path, images, acts)
    assert [outcome.lost for outcome in outcomes] == [[], []]
    assert all(len(outcome.calls) > 10 for outcome in outcomes)
