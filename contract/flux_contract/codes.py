"""Triton's error codes, and messages that carry their code at the end.

Triton sends the code of an error over HTTP and unary gRPC, but only the message on a gRPC stream. The header
`triton_grpc_error` enables gRPC's codes, but it crashed Triton 2.51 after two rejected streams, whether their clients
stayed connected or cancelled. This project never sends it. An error of an ensemble also loses its code on the way to
the model that called the ensemble (2.51).
"""

from __future__ import annotations

import re

from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, GenerationFailed, InvalidRequest, Overloaded
from flux_contract.limits import MAX_MESSAGE_BYTES

CODES: dict[type[FluxError], str] = {
    InvalidRequest: "INVALID_ARG",
    Overloaded: "UNAVAILABLE",
    Cancelled: "CANCELLED",
    # Triton returns the same code when a request times out in its queue.
    DeadlineExceeded: "UNAVAILABLE",
    GenerationFailed: "INTERNAL",
}

_WITH_CODE = re.compile(rf"(.*) \(({'|'.join(sorted(set(CODES.values())))})\)", re.DOTALL)
#: Prefixes that Triton adds to the messages of models, and to some of its own.
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
#: End of a message that was truncated.
_CUT = " ..."


def with_code(words: str, code: str) -> str:
    """Return `words (CODE)`, even if the words already end with a code, because only the last code counts."""
    return f"{words} ({code})"


def without_prefix(message: str) -> str:
    """Return the message without the request id and the names of ensembles that Triton adds before it."""
    return _PREFIX.sub("", message)


def sendable(text: str) -> str:
    """Return the text as every protocol can send it: UTF-8 of at most MAX_MESSAGE_BYTES.

    Characters that cannot be encoded, such as the surrogates of a file name, are escaped.
    """
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > MAX_MESSAGE_BYTES:
        encoded = encoded[: MAX_MESSAGE_BYTES - len(_CUT)] + _CUT.encode()
    return encoded.decode("utf-8", "ignore")


def without_code(message: str) -> tuple[str, str | None]:
    """Split a message of `with_code` into its words and its code. The code is None if there is none."""
    found = _WITH_CODE.fullmatch(message)
    return (found[1], found[2]) if found else (message, None)


def error_of(message: str, without: type[FluxError] = GenerationFailed) -> FluxError:
    """Return the error for a message from `with_code`. without: error class for a message without a code."""
    words, code = without_code(message)
    kind = next((kind for kind, its in CODES.items() if its == code), without)
    return kind(words)
