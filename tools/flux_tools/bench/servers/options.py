"""What every server of the benchmark is told on its command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

#: Seconds that a batch waits for more requests; LitServe's own example has 0.1, PyTriton's 0.0001. Clients that were
#: answered together come back within this time, so their next requests share a batch again; an image takes far longer.
BATCH_WAIT_S = 0.05


@dataclass(frozen=True)
class Options:
    """port, grpc_port, metrics_port: on the loopback. batch: requests that may share a call; 1 is no batching."""

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
