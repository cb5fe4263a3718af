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
    parser.add_argument("--stage", choices=STAGES, required=True, help="stage to run")
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs", help="folder of images, logs and states; default: runs"
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="training steps, except for vae; default: text 300, flow 9000, guidance 800, control 3500, lora 300",
    )
    parser.add_argument(
        "--start-from", type=Path, help="with --stage flow: an earlier asset whose weights it starts with"
    )
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
