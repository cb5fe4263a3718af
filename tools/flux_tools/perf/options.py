"""Command line of `scripts/perf`. Imports only the standard library, so that `--help` needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
#: Defaults of the requested images: side in pixels, and denoising steps.
SIDE, STEPS = 64, 8
#: Minimum number of requests. With fewer, a run would repeat an image, which the response cache would answer.
FEWEST_IMAGES = 50


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/perf", description="Measure flux_redux with NVIDIA's perf_analyzer.")
    parser.add_argument("--url", help="HOST:PORT of a running server's gRPC; default: start a server")
    parser.add_argument("--http-url", help="HOST:PORT of its HTTP; without it, HTTP is not measured")
    parser.add_argument("--metrics-url", help="URL of its metrics; default: http://HOST:8002/metrics")
    parser.add_argument(
        "--adapter",
        help="name of a LoRA on it, for the runs with shared memory; without it, they are skipped. "
        "Set FLUX_TRITON_KEY to the server's key",
    )
    parser.add_argument("--requests", type=int, default=60, help="requests per run, each with a new image; default: 60")
    parser.add_argument(
        "--rounds", type=int, default=8, help="rounds in which flux_redux and flux_base take turns; default: 8"
    )
    parser.add_argument("--side", type=int, default=SIDE, help=f"side of the images, in pixels; default: {SIDE}")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"denoising steps; default: {STEPS}")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "perf", help="output folder; default: out/perf")
    parser.add_argument("--docs", action="store_true", help="also write the tables of docs/perf-analyzer.md")
    parser.add_argument("--render", type=Path, metavar="results.json", help="measure nothing; write from these results")
    options = parser.parse_args()
    if options.requests < FEWEST_IMAGES:
        parser.error(f"--requests {options.requests}, expected {FEWEST_IMAGES} or more")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}, expected 1 or more")
    return options


if __name__ == "__main__":
    read_options()
