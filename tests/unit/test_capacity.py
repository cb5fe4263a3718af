"""Throughput of a GPU and cost of an image: the arithmetic, and the reuse of one run for machines of other speeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from flux_tools.simulation.capacity import (
    GPUS,
    MACHINES,
    MIXED,
    MIXES,
    TITLE,
    capacity,
    cost_per_thousand,
    gpus_for,
    section,
)
from flux_tools.simulation.machine import H100_EAGER, H100_FP8
from flux_tools.simulation.policies import StepBatching
from flux_tools.simulation.report import with_section
from flux_tools.simulation.study import H100, PROMISES, Site

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(capacity(150))


def test_scaled_run_equals_run_on_faster_machine() -> None:
    eager, fast = Site(H100_EAGER, gpus=2), Site(H100_FP8, gpus=2)
    factor = H100_FP8.overhead / H100_EAGER.overhead
    scaled = asdict(eager.run(StepBatching, 0.9 * eager.capacity(), 500).slowed(factor))
    ran = asdict(fast.run(StepBatching, 0.9 * fast.capacity(), 500))
    # This covers requests that take less than 2 s alone, which are not the same ones on both machines.
    del scaled["p99_slowdown_short"], ran["p99_slowdown_short"]
    assert scaled == pytest.approx(ran)


def test_safe_load_keeps_every_target_and_one_percent_more_does_not(rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if row["gpus"] == 1 and row["machine"] == H100_EAGER.name)

    def kept(load: float) -> bool:
        merit = H100.run(StepBatching, load * H100.capacity(), 150)
        return merit.refused_share <= 0.01 and all(promise(merit) for promise in PROMISES.values())

    assert kept(row["load"])
    assert not kept(row["load"] + 0.01)


def test_images_per_hour_are_safe_load_times_one_by_one_rate(rows: list[dict[str, Any]]) -> None:
    for machine in MACHINES:
        for row in rows:
            if row["machine"] == machine.name:
                alone = 3600 / MIXES[row["mix"]].mean_solo_seconds(machine)
                assert row["hourly"] == pytest.approx(row["load"] * alone)


def test_same_seed_gives_same_section(rows: list[dict[str, Any]]) -> None:
    assert section(rows, 150) == section(list(capacity(150)), 150)


def test_costs_and_gpus_for_round_numbers() -> None:
    assert cost_per_thousand(price=3, hourly=600) == 5
    assert gpus_for(daily=24_000, peak=3, hourly=600) == 5
    assert gpus_for(daily=24_001, peak=3, hourly=600, spare=1) == 7


def test_section_replaces_the_old_one() -> None:
    page = f"# Page\n\n## One\n\nleft\n\n{TITLE}\n\nold\n\n## Two\n\nleft\n"
    assert with_section(page, f"{TITLE}\n\nnew\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="no section"):
        with_section("# Page\n", f"{TITLE}\n")


def test_costs_on_the_page_match_its_images_per_hour() -> None:
    """Guards against numbers edited by hand: the cost at price 1 is 1000 / images per GPU-hour."""
    _, _, part = PAGE.read_text().partition(TITLE)
    found = set()
    for line in part.split("\n## ")[0].splitlines():
        machine, mix, *cells = [cell.strip() for cell in f"{line}||".strip("|").split("|")] + [""]
        if mix in MIXES:
            _load, hourly, *_others, cost, _idle = (
                float(cell.rstrip(" %s").replace(",", "")) for cell in cells if cell
            )
            assert cost == pytest.approx(1000 / hourly, rel=0.01)
            found.add((machine, mix))
    assert len(found) == len(MACHINES) * len(MIXES)
    assert f"On {GPUS} GPUs" in part
    assert MIXED in part
