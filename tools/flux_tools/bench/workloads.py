"""The workloads. `mixed` has every mode of the contract."""

from __future__ import annotations

from collections.abc import Sequence

from flux_contract.modes import MODES, Mode
from flux_tools.bench.plan import Workload, WorkloadKind


def mixed(modes: Sequence[Mode] = MODES) -> tuple[WorkloadKind, ...]:
    """Return every mode at two sizes, one with few steps and one with many."""
    kinds = []
    for index, mode in enumerate(modes):
        small, large = (4, 50) if index % 4 in (0, 3) else (50, 4)
        kinds += [WorkloadKind(64, small, mode.name), WorkloadKind(256, large, mode.name)]
    return tuple(kinds)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("demo", (WorkloadKind(64, 20),), (1, 2, 4, 8, 16), requests=12, requests_per_client=2, seconds=12.0),
        Workload("grid512", (WorkloadKind(512, 20),), (1, 2, 4, 8), requests=3, requests_per_client=1, open_loop=False),
        Workload("mixed", mixed(), (1, 2, 4, 8), requests=2 * len(MODES), requests_per_client=3),
    )
}
