"""Concurrent requests to the server through the client library."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flux_client import FluxClient
from flux_client.keywords import ModeName
from flux_tools.quality.likeness import Bytes

#: Parameters of every request; a measurement can override them.
USUAL = {"num_inference_steps": 20, "guidance_scale": 2.5, "seed": 1}
CLIENTS = 16


@dataclass(frozen=True)
class Ask:
    """A request for one image. sources: Redux images, (side, side, 3) uint8. parameters: override those of USUAL."""

    sources: tuple[Bytes, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    mode: ModeName = "redux"


def drawn(client: FluxClient, asks: Sequence[Ask], at_once: int = CLIENTS) -> Bytes:
    """Return the requested images, (requests, height, width, 3) uint8, in order. All must have the same size."""

    def one(ask: Ask) -> Bytes:
        steering = {"images": list(ask.sources)} if ask.sources else {}
        variation, *_ = getattr(client, ask.mode)(**{**USUAL, **steering, **ask.parameters})
        return np.asarray(variation.image.convert("RGB"))

    with ThreadPoolExecutor(at_once) as pool:
        return np.stack(list(pool.map(one, asks)))
