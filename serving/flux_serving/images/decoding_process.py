"""The process that decodes images for a model, one at a time, so that decoding can be stopped and a crash is harmless.

Messages in both directions are bytes and JSON, not pickles, because the process reads untrusted files. A request is a
JSON object with the keyword arguments of `decode_image`, followed by the file. The response is a JSON object with one
key; after `size` (width and height), the RGB pixels follow row by row.
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
#: Limit of the address space in bytes, several times the need of the largest image.
MAX_MEMORY_BYTES = 6 * 2**30
#: Seconds between checks whether the model's process is still running.
_PARENT_CHECK_S = 1.0


def main(descriptor: int) -> None:
    """Serve until the other end of this socket is closed. descriptor: file descriptor of the socket."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with contextlib.suppress(OSError):  # if memory runs out, the kernel kills this process before any model
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
        _send(connection, {"refused": str(error) or "decoding the image needs too much memory"})
    else:
        _send(connection, {"size": image.size})
        connection.send_bytes(pixels)


def _send(connection: Connection, message: dict[str, object]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _end_with_parent(parent: int) -> None:
    """Exit when the model's process has ended: while decoding, this process does not notice the closed socket."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(0)
