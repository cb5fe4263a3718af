"""Converts errors of Triton and of the network to those of flux_contract.errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tritonclient.utils import InferenceServerException

from flux_contract.codes import CODES, without_code, without_prefix
from flux_contract.errors import (
    Cancelled,
    DeadlineExceeded,
    FluxError,
    GenerationFailed,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Unreachable,
)
from flux_contract.models import MODELS

_Exceptions = tuple[type[Exception], ...]

#: Error types by gRPC status, HTTP status or Triton's code, including those that proxies send. Other statuses are
#: server errors (GenerationFailed).
_BY_STATUS: dict[str, type[FluxError]] = {
    CODES[InvalidRequest]: InvalidRequest,
    **dict.fromkeys(
        ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "UNIMPLEMENTED", "OUT_OF_RANGE"), InvalidRequest
    ),
    **dict.fromkeys(("UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"), InvalidRequest),
    **dict.fromkeys(("400", "401", "403", "404", "405", "409", "413", "415", "501"), InvalidRequest),
    **dict.fromkeys(("UNAVAILABLE", "RESOURCE_EXHAUSTED", "429", "503"), Overloaded),
    **dict.fromkeys(("DEADLINE_EXCEEDED", "408", "504"), DeadlineExceeded),
    **dict.fromkeys(("CANCELLED", "499"), Cancelled),
    "502": Unreachable,
}

# gRPC reports UNAVAILABLE for connection failures and for requests that the server rejects; only the text differs
# (grpcio 1.85: the debug string and the metadata add nothing). These patterns apply only to messages that none of our
# models has written.
_NEVER_CONNECTED = re.compile(
    "failed to connect|connections to all backends failing|dns resolution failed|name resolution|errors resolving",
    re.IGNORECASE,
)
_BROKEN = re.compile(
    "socket closed|connection reset|recvmsg|sendmsg|broken pipe|goaway|transport closed|stream removed"
    "|end of tcp stream|endpoint closing|keepalive watchdog",
    re.IGNORECASE,
)
#: Statuses that HAProxy and Envoy report for a broken connection.
_BROKEN_BEHIND = ("UNKNOWN", "INTERNAL")

# Messages that Triton itself writes. Each pattern matches the whole message, so that text from a caller, such as a
# request id, cannot imitate it.
#: Triton reports NOT_FOUND or a similar error while it stops, and an unhealthy stub process after a model's process
#: died, until the launcher restarts it. flux_stream forwards these messages.
_DRAINING = re.compile(
    r"(?:flux_stream: )?(?:Model \w+ - Error when running inference: )?(?:"
    r"Request for unknown model: '\w+' has no available versions"
    r"|Server is stopping, scheduler for model [\w' ]*has stopped accepting new inference requests"
    r"|Server not ready"
    r"|Model '?\w+'? is not ready"
    r"|Stub process '\w+' is not healthy\."
    r")"
)
#: An ensemble reports this if one of its models returned no output, for example because the cache stored a failure. Our
#: requests always have all required inputs, so this is a server error.
_LOST = re.compile(
    r"unexpected deadlock, at least one output is not set while no more ensemble steps can be made"
    r"|expected (?:number of inputs between \d+ and \d+|\d+ inputs) but got \d+ inputs for model '\w+'\. Got "
    r"input\(s\) \[[\w',]*\], but missing required input\(s\) \[[\w',]*\]\. Please provide all required input\(s\)\."
)
#: Triton's rejections on a stream, which have no code.
_REFUSED = re.compile(
    "request for unknown model|unexpected inference input|unexpected inference output|unexpected shape"
    r"|inference input '\w+' data-type is|inference request batch-size must be",
    re.IGNORECASE,
)
#: The message is too large for a proxy or for gRPC. A retry cannot succeed.
_TOO_LARGE = re.compile("(?:received|sent) message larger than max", re.IGNORECASE)

#: Start of every message of our models. For these, only the status or the code matters.
_OURS = re.compile(rf"(?:{'|'.join(model.name for model in MODELS)}): ")


def from_triton(status: str | None, message: str | None, url: str) -> FluxError:
    """Convert an error. status: the gRPC or HTTP status, such as `StatusCode.UNAVAILABLE` or `503`; None if unknown."""
    name = (status or "").removeprefix("StatusCode.")
    words = without_prefix(message or "no message")
    if name != "CANCELLED" and _DRAINING.fullmatch(words):
        return Overloaded(words)
    if not _OURS.match(words):
        if name == "UNAVAILABLE" and _NEVER_CONNECTED.search(words):
            return NotConnected(f"{url}: {words}")
        if name in ("UNAVAILABLE", *_BROKEN_BEHIND) and _BROKEN.search(words):
            return Unreachable(f"{url}: the connection broke before the response arrived: {words}")
        if _LOST.fullmatch(words):
            return GenerationFailed(words)
        if name == "RESOURCE_EXHAUSTED" and _TOO_LARGE.match(words):
            return InvalidRequest(words)
        if not name and _REFUSED.match(words):
            return InvalidRequest(words)
    return _BY_STATUS.get(name, GenerationFailed)(words)


def from_stream(message: str, url: str) -> FluxError:
    """Convert an error message from a gRPC stream, to which flux_stream appends its code."""
    words, code = without_code(message)
    return from_triton(code, words, url)


@contextmanager
def as_flux_errors(
    url: str, timeout_s: float, *, never_connected: _Exceptions = (), broken: _Exceptions = ()
) -> Iterator[None]:
    """Convert exceptions of one call, synchronous or not, to a FluxError.

    never_connected, broken: exceptions of this protocol's library before and after the request was sent.
    """
    try:
        yield
    except InferenceServerException as error:
        failure = from_triton(error.status(), error.message(), url)
        raise no_answer(url, timeout_s) if isinstance(failure, DeadlineExceeded) else failure from error
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise no_answer(url, timeout_s) from error
    except never_connected as error:
        raise NotConnected(f"{url}: {error}") from error
    except broken as error:
        words = str(error) or type(error).__name__
        raise Unreachable(f"{url}: the connection broke before the response arrived: {words}") from error


def no_answer(url: str, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"no response from {url} within {timeout_s:.1f} s")
