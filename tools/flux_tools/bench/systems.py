"""The systems that are compared, with the server and the client of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A system. caller: a key of `callers.CALLERS`. server: a name that `running` accepts, or None for the loop."""

    label: str
    caller: str
    server: str | None
    #: Whether the server batches requests, up to a size that calibration chooses.
    batches: bool = False
    #: Whether the system is an alternative to flux-triton.
    alternative: bool = True
    #: Workloads to measure; None: all.
    workloads: tuple[str, ...] | None = None


SYSTEMS = {
    "loop": System("diffusers in a loop", "loop", None),
    "fastapi": System("FastAPI + diffusers", "form", "fastapi"),
    "litserve": System("LitServe + diffusers", "form", "litserve", batches=True),
    "pytriton": System("PyTriton + diffusers", "pytriton", "pytriton", batches=True),
    "ours-grpc": System("flux-triton, gRPC", "flux-grpc", "ours", alternative=False),
    "ours-http": System("flux-triton, HTTP", "flux-http", "ours", alternative=False),
    "ours-raw": System(
        "flux-triton, raw tritonclient", "raw-grpc", "ours", alternative=False, workloads=("demo", "mixed")
    ),
}
