"""Triton's and the network's errors, to the errors of flux_contract.errors."""

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

#: gRPC's and HTTP's name of a failure, and Triton's own; any other is the server's mistake. A proxy's answers are
#: among them.
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

# gRPC says UNAVAILABLE for its own failures and for the server's refusals alike; only the words differ (tried on grpcio
# 1.85: debug string and metadata tell no more). They count only where no model of ours has written the message.
_NEVER_CONNECTED = re.compile(
    "failed to connect|connections to all backends failing|dns resolution failed|name resolution|errors resolving",
    re.IGNORECASE,
)
_BROKEN = re.compile(
    "socket closed|connection reset|recvmsg|sendmsg|broken pipe|goaway|transport closed|stream removed"
    "|end of tcp stream|endpoint closing|keepalive watchdog",
    re.IGNORECASE,
)
#: Behind a proxy a connection that broke is one of these: HAProxy's and Envoy's.
_BROKEN_BEHIND = ("UNKNOWN", "INTERNAL")

# What Triton itself writes. Each pattern is the whole message, so that no text of a caller's, not even a request id,
# can stand for it.
#: A stopping Triton says NOT_FOUND, or its like, before it stops answering; one whose model's process died says that
#: its stub process is not healthy until the launcher restarts it. flux_stream passes these messages on.
_DRAINING = re.compile(
    r"(?:flux_stream: )?(?:Model \w+ - Error when running inference: )?(?:"
    r"Request for unknown model: '\w+' has no available versions"
    r"|Server is stopping, scheduler for model [\w' ]*has stopped accepting new inference requests"
    r"|Server not ready"
    r"|Model '?\w+'? is not ready"
    r"|Stub process '\w+' is not healthy\."
    r")"
)
#: What an ensemble says when one of its models answered with nothing, such as a failure that the cache kept. Our
#: requests always have every required input, so it is the server's fault.
_LOST = re.compile(
    r"unexpected deadlock, at least one output is not set while no more ensemble steps can be made"
    r"|expected (?:number of inputs between \d+ and \d+|\d+ inputs) but got \d+ inputs for model '\w+'\. Got "
    r"input\(s\) \[[\w',]*\], but missing required input\(s\) \[[\w',]*\]\. Please provide all required input\(s\)\."
)
#: Triton's own refusals on a stream, which have no code.
_REFUSED = re.compile(
    "request for unknown model|unexpected inference input|unexpected inference output|unexpected shape"
    r"|inference input '\w+' data-type is|inference request batch-size must be",
    re.IGNORECASE,
)
#: Too large for a proxy, or for gRPC itself: sending it again cannot help.
_TOO_LARGE = re.compile("(?:received|sent) message larger than max", re.IGNORECASE)

#: How every message of our models begins; its status or code is then all that counts.
_OURS = re.compile(rf"(?:{'|'.join(model.name for model in MODELS)}): ")


def from_triton(status: str | None, message: str | None, url: str) -> FluxError:
    """status: `StatusCode.UNAVAILABLE` of gRPC, `503` of HTTP, or none."""
    name = (status or "").removeprefix("StatusCode.")
    words = without_prefix(message or "no message")
    if name != "CANCELLED" and _DRAINING.fullmatch(words):
        return Overloaded(words)
    if not _OURS.match(words):
        if name == "UNAVAILABLE" and _NEVER_CONNECTED.search(words):
            return NotConnected(f"{url}: {words}")
        if name in ("UNAVAILABLE", *_BROKEN_BEHIND) and _BROKEN.search(words):
            return Unreachable(f"{url}: the connection broke before the answer came: {words}")
        if _LOST.fullmatch(words):
            return GenerationFailed(words)
        if name == "RESOURCE_EXHAUSTED" and _TOO_LARGE.match(words):
            return InvalidRequest(words)
        if not name and _REFUSED.match(words):
            return InvalidRequest(words)
    return _BY_STATUS.get(name, GenerationFailed)(words)


def from_stream(message: str, url: str) -> FluxError:
    """An error that came as an answer on a gRPC stream: words, at whose end flux_stream puts its code."""
    words, code = without_code(message)
    return from_triton(code, words, url)


@contextmanager
def told_as_flux_errors(
    url: str, timeout_s: float, *, never_connected: _Exceptions = (), broken: _Exceptions = ()
) -> Iterator[None]:
    """Run one call, with or without an await in it, and raise what goes wrong as a FluxError.

    never_connected, broken: exceptions of this protocol's library, before and after the request was on its way.
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
        raise Unreachable(f"{url}: the connection broke before the answer came: {words}") from error


def no_answer(url: str, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer from {url} within {timeout_s:.1f} s")
