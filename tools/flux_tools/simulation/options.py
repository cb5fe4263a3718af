"""Command line of `scripts/simulate`. Imports only the standard library, so that `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Simulate GPUs under load.")
    parser.add_argument("--quick", action="store_true", help="simulate few requests; write to out/ instead of docs/")
    parser.add_argument(
        "--render", type=Path, metavar="RESULTS.json", help="write the page from saved results; run nothing"
    )
    parser.add_argument(
        "--study",
        choices=("capacity", "instances", "servers"),
        help="run only this study and write its section of docs/scaling.md",
    )
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
