"""Command line of `scripts/failover`. Imports only the standard library, so that `--help` needs no environment."""

from __future__ import annotations

import argparse

#: Routes from the callers to the servers: our client with both addresses, or a proxy.
NAMES = ("client", "haproxy", "envoy")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/failover", description="Restart and kill servers under load, and count lost requests."
    )
    parser.add_argument(
        "--doors", nargs="+", choices=NAMES, default=list(NAMES), help="routes to the servers; default: all"
    )
    parser.add_argument(
        "--shares",
        action="store_true",
        help="measure instead the first server's share of the requests, with three servers and then with two",
    )
    parser.add_argument("--no-retry", action="store_true", help="disable the client's retries")
    parser.add_argument("--callers", type=int, default=6, help="number of callers; default: 6")
    return parser.parse_args()


if __name__ == "__main__":
    read_options()
