"""The command line of `scripts/train_demo`. Imports only the standard library: `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("vae", "text", "flow", "guidance", "control", "lora", "pack", "curves")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/train_demo", description="Train the demo checkpoint, one stage at a time."
    )
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder for the data, the logs and the states")
    parser.add_argument("--steps", type=int, help="of any other than vae; default: 300, 9000, 800, 3500, 300")
    parser.add_argument("--start-from", type=Path, help="an earlier asset whose weights the flow starts with")
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
