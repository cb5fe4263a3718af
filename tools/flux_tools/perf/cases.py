"""The runs and their order: all interfaces, the rates of the open loop, and the rounds that compare models in turns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from flux_contract.models import FLUX_BASE, FLUX_REDUX, FLUX_STREAM
from flux_serving.launch.exposure import GRPC_KEY_HEADER, KEY_HEADER

#: Maximum number of requests in flight in an open loop. perf_analyzer's default is 4, which closes the loop: further
#: requests wait in the client, and the latency does not include that time.
OPEN_THREADS = 32
#: Rates of the open loops, as shares of the throughput at concurrency 4.
RATES = (0.4, 0.7)


class Data(Enum):
    """The `--input-data` of a case; see inputs.py."""

    IMAGES = "images"
    EVERY_INPUT = "all inputs"
    CONTEXTS = "contexts"


@dataclass(frozen=True)
class Case:
    """One run of perf_analyzer.

    rate: requests per second of an open loop, instead of the concurrency. is_seen: reuse the images of the previous
    run, which are in the response cache. parts: divisor of the number of requests.
    """

    name: str
    model: str
    data: Data = Data.IMAGES
    protocol: str = "grpc"
    concurrency: int = 1
    rate: float | None = None
    shared_memory: bool = False
    streaming: bool = False
    is_seen: bool = False
    parts: int = 1

    @property
    def load(self) -> str:
        return f"concurrency {self.concurrency}" if self.rate is None else f"Poisson, {self.rate:.1f}/s"

    def arguments(
        self, url: str, data: Path, count: int, export: Path | None, output_bytes: int, key: str = ""
    ) -> list[str]:
        """Return the command line arguments of perf_analyzer.

        url: host:port of this protocol. count: number of requests; the data is repeated if it has fewer entries.
        output_bytes: shared memory for each output, enough for the largest. key: for the restricted shared-memory API.
        """
        header = GRPC_KEY_HEADER if self.protocol == "grpc" else KEY_HEADER
        load = [f"--concurrency-range={self.concurrency}"]
        if self.rate is not None:
            load = [f"--request-rate-range={self.rate:.3f}", "--request-distribution=poisson"]
            load += [f"--max-threads={OPEN_THREADS}"]
        return [
            *("-m", self.model, "-i", self.protocol, "-u", url),
            *(f"--input-data={data}", f"--request-count={count}"),
            *([f"--profile-export-file={export}"] if export else []),
            *load,
            *(["--shared-memory=system", f"--output-shared-memory-size={output_bytes}"] if self.shared_memory else []),
            *(["-H", f"{header}:{key}"] if self.shared_memory and key else []),
            *(["--streaming"] if self.streaming else []),
        ]


GRPC = Case("`flux_redux`, gRPC", FLUX_REDUX.name)
BASE = Case("`flux_base` alone, gRPC", FLUX_BASE.name, Data.CONTEXTS)
SEEN = replace(GRPC, name="`flux_redux`, gRPC, repeated images", is_seen=True)
_WAYS = (
    GRPC,
    replace(GRPC, name="`flux_redux`, HTTP", protocol="http"),
    Case("`flux_stream`, gRPC stream", FLUX_STREAM.name, streaming=True),
    BASE,
)
_EVERY_INPUT = Case("`flux_redux`, all inputs, gRPC", FLUX_REDUX.name, Data.EVERY_INPUT, parts=2)
_SHARED = (
    _EVERY_INPUT,
    replace(_EVERY_INPUT, name="`flux_redux`, all inputs, gRPC, shared memory", shared_memory=True),
)
#: The runs of each round. In every second round the last run comes first.
TURNS = tuple(replace(case, parts=2) for case in (GRPC, SEEN, BASE))


def closed(concurrency: tuple[int, ...] = (1, 4), *, has_adapter: bool = True, has_http: bool = True) -> list[Case]:
    """Return the closed loops. has_adapter: whether the server has a LoRA, which the runs with all inputs require."""
    cases = [*_WAYS, *(_SHARED if has_adapter else ())]
    return [
        replace(case, concurrency=clients)
        for case in cases
        for clients in concurrency
        if has_http or case.protocol != "http"
    ]


def opened(images_per_s: float) -> list[Case]:
    """Return the open loops. images_per_s: throughput of the server with several clients."""
    return [replace(GRPC, rate=share * images_per_s) for share in RATES]
