"""Runs acts on the replicas under load and collects the outcomes of the callers' requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from flux_client import FAIL_OVER, RetryPolicy
from flux_tools.failover.doors import Door
from flux_tools.failover.load import CallerLoad, CallerRequest
from flux_tools.failover.replica import Replica

#: Seconds of load before and after each act.
CALM_S = 2.0
#: Seconds within which a restarted replica must receive traffic.
TRAFFIC_S = 60.0


class Act(NamedTuple):
    """A restart or a crash. name: label in the report. do: stops the replica, which is then started again."""

    name: str
    replica: int
    do: Callable[[Replica], None]


#: The first two are a rolling restart.
ACTS = (
    Act("SIGTERM, first", 0, Replica.stop),
    Act("SIGTERM, second", 1, Replica.stop),
    Act("SIGKILL of Triton", 0, Replica.kill_triton),
)


class PhaseOutcome(NamedTuple):
    """Outcome of an act. calls: requests that ended during or after it. back_s: from ready to the first image."""

    act: str
    calls: Sequence[CallerRequest]
    back_s: float

    @property
    def lost(self) -> list[str]:
        return [call.error for call in self.calls if call.error is not None]


def play(
    replicas: Sequence[Replica],
    door: Door,
    folder: Path,
    images: Sequence[bytes],
    acts: Sequence[Act] = ACTS,
    retry: RetryPolicy = FAIL_OVER,
    callers: int = 6,
) -> list[PhaseOutcome]:
    """Run the acts and return their outcomes. replicas: running. folder: for the proxy's configuration."""
    marks, backs = [], []
    with door(replicas, folder) as url, CallerLoad(url, images, callers, retry) as load:
        time.sleep(CALM_S)
        for act in acts:
            marks.append(time.monotonic())
            replica = replicas[act.replica]
            act.do(replica)
            replica.start()
            backs.append(replica.wait_for_traffic(TRAFFIC_S))
            time.sleep(CALM_S)
        marks.append(time.monotonic())
    return [
        PhaseOutcome(act.name, [call for call in load.calls if begin <= call.started + call.seconds < end], back_s)
        for act, back_s, (begin, end) in zip(acts, backs, pairwise(marks), strict=True)
    ]
