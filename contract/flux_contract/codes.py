"""Triton's code of each error, and how it is told where Triton tells words alone: at their end.

Triton sends an error's code with HTTP and with unary gRPC, but on a gRPC stream its words alone. The header
`triton_grpc_error` would turn them into gRPC's codes, but 2.51 crashes by it: after two refused streams whose clients
lingered or cancelled. So nothing of ours sends it. And an error of an ensemble has lost its code when it comes back to
the model that called it (2.51).
"""

from __future__ import annotations

import re

from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, GenerationFailed, InvalidRequest, Overloaded
from flux_contract.limits import MAX_MESSAGE_BYTES

CODES: dict[type[FluxError], str] = {
    InvalidRequest: "INVALID_ARG",
    Overloaded: "UNAVAILABLE",
    Cancelled: "CANCELLED",
    # Triton itself answers UNAVAILABLE when a request's time runs out in its queue.
    DeadlineExceeded: "UNAVAILABLE",
    GenerationFailed: "INTERNAL",
}

_WITH_CODE = re.compile(rf"(.*) \(({'|'.join(sorted(set(CODES.values())))})\)", re.DOTALL)
#: What Triton puts before a model's own words, and before some of its own.
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
#: Ends a message of which the rest was cut off.
_CUT = " ..."


def with_code(words: str, code: str) -> str:
    """`words (CODE)`. Words that end with a code get one more: a caller's text may end so, and only the last counts."""
    return f"{words} ({code})"


def without_prefix(message: str) -> str:
    """The message as it was before Triton put the request's id and the ensembles' names in front."""
    return _PREFIX.sub("", message)


def sendable(text: str) -> str:
    """The text as every protocol can carry it: UTF-8, of at most MAX_MESSAGE_BYTES.

    What cannot be encoded, such as the surrogates of a file name, is escaped.
    """
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > MAX_MESSAGE_BYTES:
        encoded = encoded[: MAX_MESSAGE_BYTES - len(_CUT)] + _CUT.encode()
    return encoded.decode("utf-8", "ignore")


def without_code(message: str) -> tuple[str, str | None]:
    """What `with_code` was given; None: there is no code."""
    found = _WITH_CODE.fullmatch(message)
    return (found[1], found[2]) if found else (message, None)


def error_of(message: str, without: type[FluxError] = GenerationFailed) -> FluxError:
    """Return the error that `with_code` described. without: the kind of an error whose message has no code."""
    words, code = without_code(message)
    kind = next((kind for kind, its in CODES.items() if its == code), without)
    return kind(words)
