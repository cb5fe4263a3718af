"""Measures memory and time of the VAE for a large image, in tiles or, if it is small enough, as a whole.

    python -m flux_tools.bench.tiles encode 4096

Prints JSON: seconds, and the increase of the process's peak resident memory in bytes.
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
    """Return seconds and bytes. direction: encode or decode. side: side of the square image in pixels."""
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
