"""The process that decodes images for a model, one at a time, so that a decode can be stopped and may even crash.

Messages in both directions are bytes and JSON: what decodes a stranger's files is not trusted with pickles.
A request is a JSON object with the keywords of `decode_image`, then the file. The answer is a JSON object with one
key, and with `size` (width and height) the RGB pixels, row by row.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from flux_contract.errors import InvalidRequest
from flux_serving.images.image_decoding import TooMuchWork, decode_image

#: The first message of the process.
READY = b"ready"
#: Bytes of address space: several times what the largest image takes.
MAX_MEMORY_BYTES = 6 * 2**30
#: Seconds between two looks at whether the model's process still lives.
_PARENT_CHECK_S = 1.0


def main(descriptor: int) -> None:
    """Serve until the other end of this socket is closed."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with contextlib.suppress(OSError):  # where memory runs out, this process goes before any model's
        Path("/proc/self/oom_score_adj").write_text("1000")
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        connection.send_bytes(READY)
        while True:
            options = json.loads(connection.recv_bytes())
            _answer(connection, connection.recv_bytes(), options)


def _answer(connection: Connection, encoded: bytes, options: dict[str, object]) -> None:
    try:
        image = decode_image(encoded, **options)  # type: ignore[arg-type]
        pixels = image.tobytes()
    except TooMuchWork:
        _send(connection, {"too_much_work": True})
    except (InvalidRequest, MemoryError) as error:
        _send(connection, {"refused": str(error) or "image takes too much memory to decode"})
    else:
        _send(connection, {"size": image.size})
        connection.send_bytes(pixels)


def _send(connection: Connection, message: dict[str, object]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _end_with_parent(parent: int) -> None:
    """Where the model's process is killed while this one decodes, no closed socket is noticed."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(0)
