"""Bytes of memory and of /tmp that a gateway takes at most, whatever it is sent."""

from __future__ import annotations

import math

from flux_contract import limits
from flux_gateway.connections import HEAD_BYTES
from flux_gateway.conversions import CONVERSIONS
from flux_gateway.parsing import ESCAPE_BYTES, MAX_ESCAPES, PARSING_COPIES
from flux_gateway.settings import Settings

#: Of an idle process: Python, FastAPI, gRPC and Pillow. Measured: 120 MB.
PROCESS_BYTES = 160 * 2**20
#: What asyncio reads from a socket at once, and what uvicorn holds of a body that nobody reads yet.
_READ_BYTES, _UNREAD_BYTES = 256 * 2**10, 64 * 2**10
#: Bytes of memory that a byte of an answer's images takes while the answer is built, beyond those that are reserved.
_BUILDING_COPIES = 4
#: Of what is freed the allocator keeps some.
_FRAGMENTATION = 1.1


def gateway_memory_bytes(settings: Settings) -> int:
    """Of the process, requests in flight, the bodies that are being parsed, results and connections."""
    # Beside the threads, the event loop parses one form.
    parsing = (CONVERSIONS + 1) * max(PARSING_COPIES * settings.body_bytes, MAX_ESCAPES * ESCAPE_BYTES)
    building = CONVERSIONS * _BUILDING_COPIES * limits.MAX_IMAGES * 3 * settings.pixels
    results = settings.result_bytes
    connections = settings.connections * (HEAD_BYTES + _READ_BYTES + _UNREAD_BYTES)
    return PROCESS_BYTES + math.ceil(
        _FRAGMENTATION * (settings.in_flight_bytes + parsing + building + results + connections)
    )


def gateway_memory_gibibytes(settings: Settings) -> int:
    """The same, rounded up."""
    return math.ceil(gateway_memory_bytes(settings) / 2**30)


def gateway_tmp_bytes() -> int:
    """Of /tmp: bodies are held in memory alone, so this is for what libraries may write."""
    return 64 * 2**20
