"""The systems that are compared: which server each needs, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """caller: a key of `callers.CALLERS`. server: a key of `servers_running.SERVERS`, or None for the loop."""

    label: str
    caller: str
    server: str | None
    #: Whether the server makes batches itself, of a size that has to be chosen.
    batches: bool = False
    #: Whether the system is one of the alternatives, which the best is looked for among.
    alternative: bool = True
    #: Workloads it is measured on; None: all.
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
