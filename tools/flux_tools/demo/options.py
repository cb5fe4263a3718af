"""The command line of `scripts/demo`. Imports only the standard library, so that ports are checked before set-up."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flux_contract.errors import CannotStart
from flux_serving.launch.arguments import PORTS, check_ports, port, port_flag
from flux_serving.launch.ports import reserved
from flux_serving.launch.processes import refuse_taken

ROOT = Path(__file__).resolve().parents[3]
#: The demo's ports are on the loopback address.
HOST = "127.0.0.1"
#: Default ports with --serve. Without it, Triton uses free ports and no gateway runs.
SERVED_PORTS = {"http_port": 8000, "grpc_port": 8001, "metrics_port": 8002, "gateway_port": 12411}
PORT_HELP = {
    "http_port": "Triton's HTTP port; default: {}; without --serve, a free port",
    "grpc_port": "Triton's gRPC port; default: {}; without --serve, a free port",
    "metrics_port": "Triton's metrics port; default: {}; without --serve, a free port",
    "gateway_port": "port of the REST gateway, with --serve; default: {}",
}


def read_options() -> argparse.Namespace:
    """Read the options. A port is None if the demo chooses a free one or does not use it."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Serve the demo checkpoint with Triton on a CPU, and generate variations of images that it was not "
        "trained on.",
    )
    parser.add_argument("--serve", action="store_true", help="keep serving afterwards, with the REST gateway")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "demo_out", help="folder of the images; default: demo_out"
    )
    parser.add_argument("--expand-only", action="store_true", help="only create the demo checkpoint")
    for name, number in SERVED_PORTS.items():
        parser.add_argument(port_flag(name), type=port, metavar="PORT", help=PORT_HELP[name].format(number))
    options = parser.parse_args()
    if options.gateway_port and not options.serve:
        parser.error("--gateway-port requires --serve")
    if options.serve:
        for name, number in SERVED_PORTS.items():
            setattr(options, name, getattr(options, name) or number)
    check_ports(parser, options)
    return options


def unavailable_ports(options: argparse.Namespace) -> list[str]:
    """Return a message for each port that the demo cannot listen on."""
    messages = []
    for name in PORTS:
        number = getattr(options, name)
        if number is None:
            continue
        try:
            with reserved([number]):
                refuse_taken(HOST, number)
        except CannotStart as error:
            messages.append(f"{error} ({port_flag(name)} sets this port)")
    return messages


def can_listen(options: argparse.Namespace) -> bool:
    """Whether all ports that the demo needs are available. Prints the others."""
    messages = [] if options.expand_only else unavailable_ports(options)
    for message in messages:
        say(message)
    return not messages


def say(line: str) -> None:
    print(f"scripts/demo: {line}", file=sys.stderr, flush=True)


def main() -> int:
    return 0 if can_listen(read_options()) else 1


if __name__ == "__main__":
    sys.exit(main())
