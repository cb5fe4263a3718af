"""Measures the private memory of a server's processes, which Linux counts as `RssAnon`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flux_serving.launch.server import TritonServer


def private_bytes(server: TritonServer) -> dict[str, int]:
    """Returns `RssAnon` of each process of the server: Triton as `tritonserver`, others as `MODEL (process id)`."""
    found: dict[str, int] = {}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and _group_of(process) == server.pid:
                found[_name_of(process, server)] = _rss_anon(process)
    return found


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    """Returns the megabytes by which each process has grown.

    Raises AssertionError: a process has ended or been replaced.
    """
    assert before.keys() == after.keys(), f"the server's processes changed: {before.keys() ^ after.keys()}"
    return {name: (after[name] - before[name]) / 1e6 for name in before}


def _group_of(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[2])


def _name_of(process: Path, server: TritonServer) -> str:
    if process.name == str(server.pid):
        return "tritonserver"
    arguments = (process / "cmdline").read_text().split("\0")
    models = [Path(argument).parent.parent.name for argument in arguments if argument.endswith("model.py")]
    return f"{models[0] if models else arguments[0]} ({process.name})"


def _rss_anon(process: Path) -> int:
    (line,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("RssAnon:"))
    return 1024 * int(line.split()[1])
