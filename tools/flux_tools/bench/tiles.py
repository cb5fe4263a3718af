"""Memory and time of a large image through the VAE in tiles, and as a whole where that is small enough.

    python -m flux_tools.bench.tiles encode 4096

Prints JSON: seconds, and the bytes by which the process's peak of resident memory grew.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch

from flux_serving.network.decoding import decode_latents
from flux_serving.network.latent_encoding import encode_pixels
from flux_serving.network.latents import Grid
from flux_serving.network.weights import load_base
from flux_tools.bench.checkpoint import CHECKPOINTS


def measured(direction: str, side: int) -> dict[str, float]:
    """direction: encode or decode. side: pixels of a square image's side."""
    base = load_base(CHECKPOINTS, torch.device("cpu"), torch.float32)
    grid = Grid(side // base.token_side, side // base.token_side)
    rgb = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    packed = torch.randn(1, grid.tokens, base.transformer.config.in_channels)
    before, started = _peak(), time.monotonic()
    if direction == "encode":
        encode_pixels(base.vae, rgb)
    else:
        decode_latents(base, packed, grid)
    return {"seconds": time.monotonic() - started, "bytes": _peak() - before}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
