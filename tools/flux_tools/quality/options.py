"""The command line of `scripts/measure_demo`. Imports only the standard library: `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/measure_demo", description="Measure what the demo checkpoint can do, through the real Triton."
    )
    parser.add_argument("questions", nargs="*", help="default: all; an unknown one lists them")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder for the images' package")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "quality", help="default: out/quality")
    parser.add_argument("--docs", action="store_true", help="write the tables and sheets of the docs, too")
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
