"""Upper bounds of the gateway's memory and of its /tmp, for any requests."""

from __future__ import annotations

import math

from flux_contract import limits
from flux_gateway.connections import HEAD_BYTES
from flux_gateway.conversions import CONVERSIONS
from flux_gateway.parsing import ESCAPE_BYTES, MAX_ESCAPES, PARSING_COPIES
from flux_gateway.settings import Settings

#: Memory of an idle process with Python, FastAPI, gRPC and Pillow. Measured: 120 MB.
PROCESS_BYTES = 160 * 2**20
#: Bytes that asyncio reads from a socket at once, and that uvicorn buffers of an unread body.
_READ_BYTES, _UNREAD_BYTES = 256 * 2**10, 64 * 2**10
#: Bytes of memory for each byte of a response's images while the response is built, in addition to the reserved memory.
_BUILDING_COPIES = 4
#: The allocator keeps some of the freed memory.
_FRAGMENTATION = 1.1


def gateway_memory_bytes(settings: Settings) -> int:
    """Return the bytes of the process, requests in flight, bodies being parsed, results and connections."""
    # In addition to the threads, the event loop parses one form.
    parsing = (CONVERSIONS + 1) * max(PARSING_COPIES * settings.body_bytes, MAX_ESCAPES * ESCAPE_BYTES)
    building = CONVERSIONS * _BUILDING_COPIES * limits.MAX_IMAGES * 3 * settings.pixels
    results = settings.result_bytes
    connections = settings.connections * (HEAD_BYTES + _READ_BYTES + _UNREAD_BYTES)
    return PROCESS_BYTES + math.ceil(
        _FRAGMENTATION * (settings.in_flight_bytes + parsing + building + results + connections)
    )


def gateway_memory_gibibytes(settings: Settings) -> int:
    """Return `gateway_memory_bytes` in GiB, rounded up."""
    return math.ceil(gateway_memory_bytes(settings) / 2**30)


def gateway_tmp_bytes() -> int:
    """Return the bytes of /tmp, which only libraries may use: bodies are held in memory."""
    return 64 * 2**20
