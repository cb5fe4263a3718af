"""Command line of `scripts/measure_demo`. Imports only the standard library, so `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/measure_demo", description="Measure the demo checkpoint with Triton."
    )
    parser.add_argument("questions", nargs="*", help="measurements to run; default: all. An unknown name lists them")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs", help="folder of the downloaded emoji package; default: runs"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "out" / "quality",
        help="folder of the sheets and Triton's log; default: out/quality",
    )
    parser.add_argument("--docs", action="store_true", help="write the tables and sheets of the documentation")
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
