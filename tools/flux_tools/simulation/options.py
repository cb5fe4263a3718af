"""The command line of `scripts/simulate`. Imports only the standard library: `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Simulate GPUs under load.")
    parser.add_argument("--quick", action="store_true", help="few requests, into out/ instead of docs/")
    parser.add_argument("--render", type=Path, metavar="RESULTS.json", help="run nothing, take these numbers")
    parser.add_argument(
        "--study",
        choices=("capacity", "instances", "servers"),
        help="this one alone, and its section of docs/scaling.md",
    )
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
