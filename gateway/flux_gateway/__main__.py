"""`flux-gateway`: serve REST in front of a Triton; `flux-gateway key NAME` makes an API key."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

import uvicorn

from flux_contract.errors import CannotStart
from flux_gateway.app import make_app
from flux_gateway.connections import HEAD_BYTES, allow_files, bounded_protocol
from flux_gateway.keys import new_key
from flux_gateway.proxies import Networks
from flux_gateway.settings import PREFIX, Settings


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="flux-gateway", description=__doc__, epilog=f"Settings are variables: {PREFIX}TRITON, {PREFIX}PORT ..."
    )
    commands = parser.add_subparsers(dest="command", metavar="")
    commands.add_parser("serve", help="serve; this is what happens without a command, too")
    commands.add_parser("check", help="end with status 1 and the reason where the settings are wrong; serve nothing")
    key = commands.add_parser("key", help="print a new API key, and what the file of keys keeps of it")
    key.add_argument("name", help="of whom it is for")
    chosen = parser.parse_args()
    if chosen.command == "key":
        made, kept = new_key(chosen.name)
        print(f"the key, which is not shown again: {made}\nfor the list in {PREFIX}KEYS_FILE: {json.dumps(kept)}")
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
        # TrustedProxies does it, for the configured ones.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=settings.exit_timeout_s,
        access_log=False,
        log_level="warning",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
