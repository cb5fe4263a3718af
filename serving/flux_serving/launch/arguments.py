"""Types and checks of command-line options. Imports only the standard library."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def up_to(most: int, unit: str = "") -> Callable[[str], int]:
    """Returns a function that reads an integer from 1 to `most`, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}, expected 1..{most}{unit}")
        return int(text)

    return read


port = up_to(65535)
#: Names of the options that set ports, as argparse stores them.
PORTS = ("http_port", "grpc_port", "metrics_port", "gateway_port")


def port_flag(name: str) -> str:
    """Returns the flag of one of PORTS."""
    return f"--{name.replace('_', '-')}"


def check_ports(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with an error if two of the ports are the same, even on different addresses."""
    flags: dict[int, str] = {}
    for name in PORTS:
        flag, number = port_flag(name), getattr(options, name)
        if number in flags:
            parser.error(f"{flags[number]} and {flag} are both {number}, expected different ports")
        if number is not None:
            flags[number] = flag
