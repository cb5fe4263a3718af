"""Command line of `scripts/bench`. Imports only the standard library, so that `--help` needs no environment."""

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
        raise argparse.ArgumentTypeError(f"{text!r}, expected comma-separated numbers of at least 1")
    return values


def at_least_one(text: str) -> int:
    (value,) = numbers(text)
    return value


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Compare flux-triton with other ways to serve diffusers."
    )
    parser.add_argument("--workloads", type=names, help=f"default: all, {','.join(WORKLOAD_NAMES)}; --quick: demo")
    parser.add_argument("--systems", type=names, default=list(SYSTEMS), help=f"default: all, {','.join(SYSTEMS)}")
    parser.add_argument("--concurrency", type=numbers, help="clients of the closed loops; default: set by the workload")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="number of rounds; default: 3")
    parser.add_argument("--requests", type=at_least_one, help="minimum per block; default: set by the workload")
    parser.add_argument("--grid512-steps", type=int, default=20, help="denoising steps of grid512; default: 20")
    parser.add_argument(
        "--open-share", type=float, default=0.5, help="arrivals as a share of our throughput; 0: none; default: 0.5"
    )
    parser.add_argument(
        "--long-jobs", type=int, default=8, help="long jobs of the fairness scenario; 0: none; default: 8"
    )
    parser.add_argument(
        "--threads", type=at_least_one, default=os.cpu_count(), help="threads of each process; default: number of cores"
    )
    parser.add_argument("--quick", action="store_true", help="check that everything works, in a few minutes")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "bench", help="output folder; default: out/bench")
    parser.add_argument("--docs", action="store_true", help="also write docs/performance.md and its image")
    parser.add_argument(
        "--render", type=Path, nargs="+", metavar="BENCH.json", help="measure nothing; write from these results"
    )
    options = parser.parse_args()
    options.workloads = options.workloads or (["demo"] if options.quick else list(WORKLOAD_NAMES))
    for given, known in ((options.workloads, WORKLOAD_NAMES), (options.systems, SYSTEMS)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is unknown, expected one of: {', '.join(known)}")
    return options


def read_memory_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of `scripts/bench memory`."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description="Measure the memory use of each model.")
    parser.add_argument("--docs", action="store_true", help="also write the tables of docs/memory.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        read_memory_options(sys.argv[2:])
    else:
        read_options()
