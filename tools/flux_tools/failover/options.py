"""The command line of `scripts/failover`. Imports only the standard library: `--help` needs no environment."""

from __future__ import annotations

import argparse

#: By what callers reach the servers: our client with both addresses, or a proxy.
NAMES = ("client", "haproxy", "envoy")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/failover", description="Restart and kill servers under load, and count what is lost."
    )
    parser.add_argument("--doors", nargs="+", choices=NAMES, default=list(NAMES), help="default: all")
    parser.add_argument(
        "--shares",
        action="store_true",
        help="instead: the first server's share by the client's balancing, of three servers and then of two",
    )
    parser.add_argument("--no-retry", action="store_true", help="show what callers see who never ask again")
    parser.add_argument("--callers", type=int, default=6, help="default: 6")
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
