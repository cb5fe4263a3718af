"""Requests for NVIDIA's perf_analyzer, each with its own image and seed.

    python -m flux_tools.bench.perf_input COUNT SIDE STEPS OCCASION > requests.json

OCCASION is any word. Use a new one for each run of perf_analyzer, so that Triton's response cache has none of its
images.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from typing import Any

from flux_tools.bench.images import encoded


def request(number: int, side: int, steps: int, occasion: str) -> dict[str, Any]:
    """Return one entry of `--input-data`. In BYTES, each element follows its length as little-endian uint32."""
    image = encoded(number, occasion)
    element = struct.pack("<I", len(image)) + image
    numbers = {"HEIGHT": side, "WIDTH": side, "NUM_INFERENCE_STEPS": steps, "SEED": 1000 + number}
    return {
        "IMAGE": {"content": {"b64": base64.b64encode(element).decode()}, "shape": [1]},
        **{name: {"content": [value], "shape": [1]} for name, value in numbers.items()},
    }


if __name__ == "__main__":
    count, side, steps = map(int, sys.argv[1:4])
    json.dump({"data": [request(number, side, steps, sys.argv[4]) for number in range(count)]}, sys.stdout)
