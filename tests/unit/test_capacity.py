"""What a GPU makes and an image costs: the arithmetic, and that one run tells for machines of other speed."""

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


def test_a_run_on_the_eager_machine_tells_what_one_on_a_faster_machine_would() -> None:
    eager, fast = Site(H100_EAGER, gpus=2), Site(H100_FP8, gpus=2)
    told = asdict(eager.run(StepBatching, 0.9 * eager.capacity(), 500).slowed(H100_FP8.overhead / H100_EAGER.overhead))
    ran = asdict(fast.run(StepBatching, 0.9 * fast.capacity(), 500))
    # Of what takes less than 2 s alone, which is not the same on both.
    del told["p99_slowdown_short"], ran["p99_slowdown_short"]
    assert told == pytest.approx(ran)


def test_a_safe_load_keeps_every_promise_and_one_percent_more_does_not(rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if row["gpus"] == 1 and row["machine"] == H100_EAGER.name)

    def kept(load: float) -> bool:
        merit = H100.run(StepBatching, load * H100.capacity(), 150)
        return merit.refused_share <= 0.01 and all(promise(merit) for promise in PROMISES.values())

    assert kept(row["load"])
    assert not kept(row["load"] + 0.01)


def test_images_an_hour_are_the_safe_share_of_what_a_gpu_does_one_by_one(rows: list[dict[str, Any]]) -> None:
    for machine in MACHINES:
        for row in rows:
            if row["machine"] == machine.name:
                alone = 3600 / MIXES[row["mix"]].mean_solo_seconds(machine)
                assert row["hourly"] == pytest.approx(row["load"] * alone)


def test_the_same_seed_gives_the_same_section(rows: list[dict[str, Any]]) -> None:
    assert section(rows, 150) == section(list(capacity(150)), 150)


def test_costs_and_gpus_of_round_numbers() -> None:
    assert cost_per_thousand(price=3, hourly=600) == 5
    assert gpus_for(daily=24_000, peak=3, hourly=600) == 5
    assert gpus_for(daily=24_001, peak=3, hourly=600, spare=1) == 7


def test_the_section_is_put_where_the_old_one_was() -> None:
    page = f"# Page\n\n## One\n\nleft\n\n{TITLE}\n\nold\n\n## Two\n\nleft\n"
    assert with_section(page, f"{TITLE}\n\nnew\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="no section"):
        with_section("# Page\n", f"{TITLE}\n")


def test_the_page_has_the_costs_of_its_own_images_an_hour() -> None:
    """No number was changed by hand: each price column is 1000 x price / images of the table above it."""
    _, _, part = PAGE.read_text().partition(TITLE)
    numbers: dict[tuple[str, str], list[list[float]]] = {}
    for line in part.split("\n## ")[0].splitlines():
        machine, mix, *cells = [cell.strip() for cell in f"{line}||".strip("|").split("|")] + [""]
        if mix in MIXES:
            values = [float(cell.rstrip(" %s").replace(",", "")) for cell in cells if cell]
            numbers.setdefault((machine, mix), []).append(values)
    assert len(numbers) == len(MACHINES) * len(MIXES)
    for safe, costs in numbers.values():
        for price, cost in enumerate(costs[:4], 1):
            assert cost == pytest.approx(1000 * price / safe[1], rel=0.01)
    assert f"On {GPUS} GPUs" in part
    assert MIXED in part
