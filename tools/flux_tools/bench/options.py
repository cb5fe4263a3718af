"""The command line of `scripts/bench`. Imports only the standard library: `--help` needs no environment."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flux_tools.bench.plan import WORKLOAD_NAMES
from flux_tools.bench.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[3]


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def numbers(text: str) -> tuple[int, ...]:
    values = tuple(int(number) for number in names(text))
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected numbers from 1, with commas between them")
    return values


def at_least_one(text: str) -> int:
    (value,) = numbers(text)
    return value


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure flux_redux and the alternatives side by side."
    )
    parser.add_argument("--workloads", type=names, help=f"of {','.join(WORKLOAD_NAMES)}; --quick: demo")
    parser.add_argument("--systems", type=names, default=list(SYSTEMS), help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--concurrency", type=numbers, help="clients of the closed loops; default: the workloads' own")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="default: 3")
    parser.add_argument("--requests", type=at_least_one, help="of one block at least, in place of the workloads' own")
    parser.add_argument("--grid512-steps", type=int, default=20, help="denoising steps of grid512; default: 20")
    parser.add_argument("--open-share", type=float, default=0.5, help="arrivals as a share of our throughput; 0: none")
    parser.add_argument("--long-jobs", type=int, default=8, help="beside which a short one runs; 0: none; default: 8")
    parser.add_argument(
        "--threads", type=at_least_one, default=os.cpu_count(), help="of each process; default: the cores"
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes, to see that all of it works")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "bench", help="folder; default: out/bench")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md's tables and its image too")
    parser.add_argument(
        "--render", type=Path, nargs="+", metavar="BENCH.json", help="measure nothing: write from these results"
    )
    options = parser.parse_args()
    options.workloads = options.workloads or (["demo"] if options.quick else list(WORKLOAD_NAMES))
    for given, known in ((options.workloads, WORKLOAD_NAMES), (options.systems, SYSTEMS)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is unknown, expected one of: {', '.join(known)}")
    return options


def read_memory_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Of `scripts/bench memory`."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench memory", description="Measure what each model holds in memory."
    )
    parser.add_argument("--docs", action="store_true", help="write docs/memory.md's tables too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        read_memory_options(sys.argv[2:])
    else:
        read_options()
