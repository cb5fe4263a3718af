"""Images from the real server, asked for by our client, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flux_client import FluxClient
from flux_client.keywords import ModeName
from flux_tools.quality.likeness import Bytes

#: As the demo asks; a question that turns one of them says so.
USUAL = {"num_inference_steps": 20, "guidance_scale": 2.5, "seed": 1}
CLIENTS = 16


@dataclass(frozen=True)
class Ask:
    """One image wanted. sources: (side, side, 3) uint8 each, that steer it. knobs: beside the usual ones."""

    sources: tuple[Bytes, ...] = ()
    knobs: dict[str, Any] = field(default_factory=dict)
    mode: ModeName = "redux"


def drawn(client: FluxClient, asks: Sequence[Ask], at_once: int = CLIENTS) -> Bytes:
    """(asks, height, width, 3) uint8, in the order of the asks, which are all of one size."""

    def one(ask: Ask) -> Bytes:
        steering = {"images": list(ask.sources)} if ask.sources else {}
        variation, *_ = getattr(client, ask.mode)(**{**USUAL, **steering, **ask.knobs})
        return np.asarray(variation.image.convert("RGB"))

    with ThreadPoolExecutor(at_once) as pool:
        return np.stack(list(pool.map(one, asks)))
