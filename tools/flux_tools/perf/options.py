"""The command line of `scripts/perf`. Imports only the standard library: `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
#: Of the images asked for: pixels of a side, and denoising steps.
SIDE, STEPS = 64, 8
#: Fewer, and one run would see some image twice, which the response cache answers.
FEWEST_IMAGES = 50


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/perf", description="Measure flux_redux with NVIDIA's perf_analyzer.")
    parser.add_argument("--url", help="HOST:PORT of gRPC of a server that runs; default: starts one with the demo's")
    parser.add_argument("--http-url", help="HOST:PORT of its HTTP; without it HTTP is not measured")
    parser.add_argument("--metrics-url", help="of its metrics; default: http://HOST:8002/metrics")
    parser.add_argument(
        "--adapter",
        help="a LoRA of it, for shared memory, which without one is not measured; "
        "FLUX_TRITON_KEY is the key that the server was started with",
    )
    parser.add_argument("--requests", type=int, default=60, help="of each run, each a new image; default: 60")
    parser.add_argument(
        "--rounds", type=int, default=8, help="in which flux_redux and flux_base take turns; default: 8"
    )
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the images asked for, in pixels; default: {SIDE}")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of denoising; default: {STEPS}")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "perf", help="folder; default: out/perf")
    parser.add_argument("--docs", action="store_true", help="write docs/perf-analyzer.md's tables too")
    parser.add_argument("--render", type=Path, metavar="results.json", help="measure nothing: write from these results")
    options = parser.parse_args()
    if options.requests < FEWEST_IMAGES:
        parser.error(f"--requests {options.requests}, expected {FEWEST_IMAGES} or more")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}, expected 1 or more")
    return options


if __name__ == "__main__":
    read_options()
