"""Resident memory of the model processes of a running server."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path

from flux_contract.models import MODELS


def resident_bytes(group: int) -> dict[str, list[int]]:
    """Return the resident bytes of every model's processes, one for each instance. group: of the server's processes."""
    found: dict[str, list[int]] = defaultdict(list)
    for process in Path("/proc").iterdir():
        # A process may end while it is being read.
        with contextlib.suppress(OSError):
            if not process.name.isdecimal() or not (process / "comm").read_text().startswith("triton_python"):
                continue
            if int((process / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                found[model_in((process / "cmdline").read_text())].append(resident_in((process / "status").read_text()))
    return dict(found)


def model_in(command: str) -> str:
    """Return the model whose model.py is in the command line."""
    return next(model.name for model in MODELS if f"/{model.name}/" in command)


def resident_in(status: str) -> int:
    """Return the resident bytes. status: content of /proc/PID/status."""
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(kilobytes)
