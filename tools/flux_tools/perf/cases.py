"""What is run, in which order: every way to ask, the rates of an open loop, and the rounds that take turns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from flux_contract.models import FLUX_BASE, FLUX_REDUX, FLUX_STREAM
from flux_serving.launch.exposure import GRPC_KEY_HEADER, KEY_HEADER

#: Requests that may be under way in an open loop. By default they are 4, which closes the loop: the rest waits in the
#: client, unseen by the latency.
OPEN_THREADS = 32
#: Images a second of the open loops, as shares of what the closed loop of 4 got.
RATES = (0.4, 0.7)


class Data(Enum):
    """Which `--input-data` a case takes; see inputs.py."""

    IMAGES = "images"
    EVERY_INPUT = "every input"
    CONTEXTS = "contexts"


@dataclass(frozen=True)
class Case:
    """One run of perf_analyzer. rate: requests a second of an open loop, in place of the concurrency.

    is_seen: the images are those of the run before, which the response cache has. parts: it asks that part of the
    requests that others ask.
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
        return f"{self.concurrency} at a time" if self.rate is None else f"Poisson, {self.rate:.1f}/s"

    def arguments(
        self, url: str, data: Path, count: int, export: Path | None, output_bytes: int, key: str = ""
    ) -> list[str]:
        """url: host:port of this protocol. count: requests; the data has an entry for each, or is gone through again.

        output_bytes: of shared memory for each output; the largest must fit. key: opens Triton's API of shared memory.
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
SEEN = replace(GRPC, name="`flux_redux`, gRPC, images seen before", is_seen=True)
_WAYS = (
    GRPC,
    replace(GRPC, name="`flux_redux`, HTTP", protocol="http"),
    Case("`flux_stream`, gRPC stream", FLUX_STREAM.name, streaming=True),
    BASE,
)
_EVERY_INPUT = Case("`flux_redux`, every input, gRPC", FLUX_REDUX.name, Data.EVERY_INPUT, parts=2)
_SHARED = (
    _EVERY_INPUT,
    replace(_EVERY_INPUT, name="`flux_redux`, every input, gRPC, shared memory", shared_memory=True),
)
#: Of each round; in every other one the last comes first.
TURNS = tuple(replace(case, parts=2) for case in (GRPC, SEEN, BASE))


def closed(concurrency: tuple[int, ...] = (1, 4), *, has_adapter: bool = True, has_http: bool = True) -> list[Case]:
    """has_adapter: whether the server has a LoRA, without which not every input can be given."""
    cases = [*_WAYS, *(_SHARED if has_adapter else ())]
    return [
        replace(case, concurrency=clients)
        for case in cases
        for clients in concurrency
        if has_http or case.protocol != "http"
    ]


def opened(images_per_s: float) -> list[Case]:
    """images_per_s: what the server makes where several ask at a time."""
    return [replace(GRPC, rate=share * images_per_s) for share in RATES]
