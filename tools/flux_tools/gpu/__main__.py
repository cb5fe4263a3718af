"""Measures time and exactness of FLUX.1-dev's steps and decoder and prints Markdown tables.

This engine and stock diffusers take turns.

python -m flux_tools.gpu                       on a GPU with 40 GB or more
python -m flux_tools.gpu --device cpu --tiny   checks that it runs
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import diffusers
import torch
from diffusers import FluxPipeline

from flux_serving.network.decoding import decode_latents
from flux_serving.network.latents import Grid
from flux_tools.documents import table
from flux_tools.gpu.contestants import Ours, TimedSteps, run_stock
from flux_tools.gpu.networks import make_pipeline

#: Side in pixels, and number of images that share a step.
CASES = [(512, 1), (512, 4), (512, 8), (1024, 1), (1024, 2), (1024, 4)]
STEPS, ROUNDS = 6, 3
#: Blocks for the comparison of exactness, few enough to hold the networks in two dtypes at a time.
SHALLOW = {"num_layers": 4, "num_single_layers": 8}
TINY = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flux_tools.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="use few narrow blocks and small images")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: torch {torch.__version__} finds no GPU on this machine")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, diffusers {diffusers.__version__}\n")
    cases = [(64, 1), (64, 2)] if given.tiny else CASES
    size = TINY if given.tiny else {}
    print(exactness(device, cases[0][0], size or SHALLOW), flush=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    pipeline = make_pipeline(device, torch.bfloat16, **size)
    ours = Ours(pipeline)
    print(f"\n{steps(pipeline, ours, cases)}\n", flush=True)
    print(decoding(ours, sorted({side for side, _ in cases})))
    if device.type == "cuda":
        print(f"\npeak memory: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")


def exactness(device: torch.device, side: int, size: dict[str, int]) -> str:
    """Return a table of the relative distance of latents from stock's in float32, after STEPS steps from one noise."""
    courses: dict[tuple[str, str], TimedSteps] = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = make_pipeline(device, dtype, **size)
        label = str(dtype).removeprefix("torch.")
        courses["stock", label] = run_stock(pipeline, side, 2, STEPS)
        courses["ours", label] = Ours(pipeline).run(side, 2, STEPS)
    reference = courses["stock", "float32"].latents
    rows = [
        [who, label, f"{float((course.latents - reference).norm() / reference.norm()):.1e}"]
        for (who, label), course in courses.items()
    ]
    return table(["latents of", "computed in", "distance from stock's in float32"], rows)


def steps(pipeline: FluxPipeline, ours: Ours, cases: Sequence[tuple[int, int]]) -> str:
    """Return a table of step times. The first step of each run, which includes preparation, is left out."""
    rows = []
    for side, images in cases:
        contestants: dict[str, Callable[[], TimedSteps]] = {
            "stock": partial(run_stock, pipeline, side, images, STEPS),
            "ours": partial(ours.run, side, images, STEPS),
        }
        seconds: dict[str, list[float]] = {who: [] for who in contestants}
        for turn in range(ROUNDS):
            for who, run in contestants.items():
                course = run()
                # The first round is a warm-up.
                seconds[who] += course.step_seconds[1:] if turn else []
        stock, own = (statistics.median(seconds[who]) for who in ("stock", "ours"))
        cells = [f"{1000 * each:.1f}" for each in (stock, own, stock / images, own / images)]
        rows.append([f"{side}x{side}", str(images), *cells, f"{stock / own:.2f}"])
    head = ["images", "in a step", "stock, ms", "ours, ms", "stock, each", "ours, each", "stock / ours"]
    return table(head, rows)


def decoding(ours: Ours, sides: Sequence[int]) -> str:
    base, rows = ours.sampler.base, []
    for side in sides:
        grid = Grid(side // base.token_side, side // base.token_side)
        latents = torch.randn(1, grid.tokens, 64, device=base.device, dtype=base.dtype)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            decode_latents(base, latents, grid)
            seconds.append(time.perf_counter() - started)
        rows.append([f"{side}x{side}", f"{1000 * statistics.median(seconds[1:]):.0f}"])
    return table(["decoding one image", "ms"], rows)


if __name__ == "__main__":
    main()
