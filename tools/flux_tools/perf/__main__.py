"""`scripts/perf`: measures flux_redux with NVIDIA's perf_analyzer over all interfaces, and where the time goes."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flux_contract.errors import CannotStart
from flux_serving.launch.exposure import KEY_VARIABLE
from flux_serving.launch.processes import end_on_signals, free_ports
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_tools.bench.checkpoint import CHECKPOINTS, FOLDER, ROOT
from flux_tools.bench.machine import machine
from flux_tools.demo.asset import expand
from flux_tools.documents import replaced
from flux_tools.perf.binary import NoBinary, find_binary
from flux_tools.perf.inputs import Work
from flux_tools.perf.options import read_options
from flux_tools.perf.report import TITLES, sections
from flux_tools.perf.runs import LEFT, PerfResults, PerfRunner
from flux_tools.perf.servers import NoServer, Server, check

PAGE = ROOT / "docs" / "perf-analyzer.md"
START_S = 300.0
#: A LoRA of the demo checkpoint.
ADAPTER = "greyscale"


def named(options: argparse.Namespace) -> Server:
    """Return the server at --url."""
    metrics = options.metrics_url or f"http://{options.url.rpartition(':')[0]}:8002/metrics"
    return Server(options.url, options.http_url, metrics, options.adapter, os.environ.get(KEY_VARIABLE, ""))


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[Server]:
    """Return the server at --url, or run one on free ports of this machine within the context.

    Raises CannotStart.
    """
    if options.url:
        yield named(options)
        return
    expand(FOLDER)
    http, grpc, port = free_ports()
    key = secrets.token_urlsafe()
    started = ServerOptions(
        ROOT / "model_repository", CHECKPOINTS, http_port=http, grpc_port=grpc, metrics_port=port, api_key=key
    )
    with (options.output / "triton.log").open("wb") as log, TritonServer(started, log) as triton:
        triton.wait_until_ready(START_S)
        yield Server(triton.grpc_url, triton.http_url, f"http://127.0.0.1:{port}/metrics", ADAPTER, key)


def cleared(folder: Path) -> None:
    """Create the folder if necessary, and remove the files of an earlier run from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (*LEFT, "results.json", "report.md", "triton.log"):
        for file in folder.glob(pattern):
            file.unlink()


def measured(options: argparse.Namespace) -> PerfResults:
    """Raises NoBinary, CannotStart, NoServer."""
    binary = find_binary()
    if options.url:
        check(named(options))
    cleared(options.output)
    of_machine = machine(0)
    of_machine.pop("threads of each process")
    about = {"perf_analyzer": f"{binary.version}, on the same machine as the server"} | of_machine
    about |= {
        "images": f"{options.requests} per run, {options.side}x{options.side}, {options.steps} steps",
        "server": "the server at --url" if options.url else "the embedded Triton, demo checkpoint, profile `cpu`",
    }
    with serving(options) as server:
        runner = PerfRunner(binary, server, options.output, options.requests, Work(options.side, options.steps))
        runner.warm_up()
        results = PerfResults(about)
        # The rounds come first, because a server is least disturbed in its first minutes.
        results.turns = runner.turns(options.rounds)
        results.runs = runner.all_ways()
    return results


def write(results: PerfResults, options: argparse.Namespace) -> None:
    parts = sections(results)
    options.output.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(f"## {TITLES[name]}\n\n{part}" for name, part in parts.items())
    (options.output / "report.md").write_text(f"# perf_analyzer on flux-triton\n\n{text}\n")
    print(f"\n{text}")
    if options.docs:
        PAGE.write_text(replaced(PAGE.read_text(), parts))


def main() -> int:
    options = read_options()
    options.output = options.output.resolve()
    if options.render:
        try:
            write(PerfResults.load(options.render), options)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"scripts/perf: --render: cannot read results: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        return 0
    end_on_signals()
    try:
        results = measured(options)
    except (NoBinary, CannotStart, NoServer) as error:
        print(f"scripts/perf: {error}", file=sys.stderr)
        return 1
    results.save(options.output / "results.json")
    write(results, options)
    return 1 if any(run.failed or run.error for run in (*results.runs, *results.turns)) else 0


if __name__ == "__main__":
    sys.exit(main())
