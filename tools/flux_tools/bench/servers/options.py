"""Command line of the benchmark's servers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

#: Seconds that a batch waits for more requests; LitServe's example uses 0.1, PyTriton's 0.0001. Clients that received
#: their responses together send their next requests within this time, so these share a batch again. An image takes far
#: longer.
BATCH_WAIT_S = 0.05


@dataclass(frozen=True)
class Options:
    """Options of a server. port, grpc_port, metrics_port: on loopback. batch: maximum batch size; 1: no batching."""

    port: int
    grpc_port: int
    metrics_port: int
    batch: int

    @classmethod
    def read(cls) -> Options:
        parser = argparse.ArgumentParser()
        for name in ("port", "grpc-port", "metrics-port", "batch"):
            parser.add_argument(f"--{name}", type=int, required=True)
        return cls(**vars(parser.parse_args()))
