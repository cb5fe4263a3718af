"""Triton's code of each error, and messages that end with their code.

Triton sends the code of an error over HTTP and unary gRPC, but only the message on a gRPC stream. The header
`triton_grpc_error` asks for gRPC's codes, but it crashed Triton 2.51, after two rejected streams whose clients stayed
connected or cancelled. Nothing in this project sends it. An error of an ensemble also loses its code on the way to the
model that called the ensemble (2.51).
"""

from __future__ import annotations

import re

from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, GenerationFailed, InvalidRequest, Overloaded
from flux_contract.limits import MAX_MESSAGE_BYTES

CODES: dict[type[FluxError], str] = {
    InvalidRequest: "INVALID_ARG",
    Overloaded: "UNAVAILABLE",
    Cancelled: "CANCELLED",
    # As Triton itself responds when a request times out in its queue.
    DeadlineExceeded: "UNAVAILABLE",
    GenerationFailed: "INTERNAL",
}

_WITH_CODE = re.compile(rf"(.*) \(({'|'.join(sorted(set(CODES.values())))})\)", re.DOTALL)
#: What Triton adds before the message of a model, and before some of its own.
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
#: End of a message that was truncated.
_CUT = " ..."


def with_code(words: str, code: str) -> str:
    """`words (CODE)`, also if the words end with a code: they can quote a client, and only the last code counts."""
    return f"{words} ({code})"


def without_prefix(message: str) -> str:
    """The message without the request id and the names of ensembles, which Triton adds before it."""
    return _PREFIX.sub("", message)


def sendable(text: str) -> str:
    """The text in a form that every protocol can send: UTF-8 of at most MAX_MESSAGE_BYTES.

    Characters that cannot be encoded, such as the surrogates of a file name, are escaped.
    """
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > MAX_MESSAGE_BYTES:
        encoded = encoded[: MAX_MESSAGE_BYTES - len(_CUT)] + _CUT.encode()
    return encoded.decode("utf-8", "ignore")


def without_code(message: str) -> tuple[str, str | None]:
    """Split a message of `with_code` into its words and its code, None if it has no code."""
    found = _WITH_CODE.fullmatch(message)
    return (found[1], found[2]) if found else (message, None)


def error_of(message: str, without: type[FluxError] = GenerationFailed) -> FluxError:
    """Return the error of a message from `with_code`. without: class of an error whose message has no code."""
    words, code = without_code(message)
    kind = next((kind for kind, its in CODES.items() if its == code), without)
    return kind(words)
