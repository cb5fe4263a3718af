"""The command `flux-gateway`: serves REST in front of Triton, checks its settings, and creates API keys."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields

import uvicorn

from flux_client import __version__
from flux_contract.errors import CannotStart
from flux_gateway.app import make_app
from flux_gateway.connections import HEAD_BYTES, allow_files, bounded_protocol
from flux_gateway.keys import new_key
from flux_gateway.proxies import Networks
from flux_gateway.settings import PREFIX, Settings


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flux-gateway",
        description="Serve REST APIs and the web page in front of Triton.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flux-gateway {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="")
    commands.add_parser("serve", help="serve (the default)")
    commands.add_parser(
        "check", help="check the settings and the files that they name, and exit with 1 if one is wrong"
    )
    key = commands.add_parser("key", help=f"print a new API key and its entry for {PREFIX}KEYS_FILE")
    key.add_argument("name", help="name of the key's owner, for the log")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns the exit code."""
    chosen = make_parser().parse_args(argv)
    if chosen.command == "key":
        made, kept = new_key(chosen.name)
        print(f"the key, which is not shown again: {made}\nentry for {PREFIX}KEYS_FILE: {json.dumps(kept)}")
        return 0
    try:
        settings = Settings.from_environment(os.environ)
        app = make_app(settings)
    except CannotStart as error:
        print(f"flux-gateway: {error}", file=sys.stderr)
        return 1
    if chosen.command == "check":
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    allow_files(settings.connections)
    proxies = Networks(settings.trusted_proxies)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(
            settings.connections, settings.connections_per_caller, lambda address: address in proxies
        ),
        ws="none",
        h11_max_incomplete_event_size=HEAD_BYTES,
        # TrustedProxies reads these headers, from the configured proxies only.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=settings.exit_timeout_s,
        access_log=False,
        log_level="warning",
    )
    return 0


def _settings_help() -> str:
    """Each environment variable with its default and meaning."""
    lines = ["Settings are environment variables:"]
    for field in fields(Settings):
        default = field.default
        if isinstance(default, bool):
            default = str(default).lower()
        shown = "none" if default in (None, "") else f"{default:g}" if isinstance(default, float) else default
        lines.append(f"  {PREFIX}{field.name.upper()} (default: {shown})")
        lines += textwrap.wrap(field.metadata["help"], 74, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
