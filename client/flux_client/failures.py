"""Triton's and the network's errors, to the errors of flux_serving.errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tritonclient.utils import InferenceServerException

from flux_serving.contract.codes import CODES, without_code
from flux_serving.errors import (
    Cancelled,
    DeadlineExceeded,
    FluxError,
    GenerationFailed,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Unreachable,
)

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
# 1.85: debug string and metadata tell no more).
_NEVER_CONNECTED = (
    "failed to connect",
    "connections to all backends failing",
    "dns resolution failed",
    "name resolution",
    "errors resolving",
)
_BROKEN = (
    "socket closed",
    "connection reset",
    "recvmsg",
    "sendmsg",
    "broken pipe",
    "goaway",
    "transport closed",
    "stream removed",
    "end of tcp stream",
    "endpoint closing",
    "keepalive watchdog",
)
#: Behind a proxy a connection that broke is one of these: HAProxy's and Envoy's.
_BROKEN_BEHIND = ("UNKNOWN", "INTERNAL")
#: A stopping Triton says NOT_FOUND, or its like, before it stops answering; one whose model's process died says "Stub
#: process 'flux_base_0_0' is not healthy." until the launcher restarts it.
_DRAINING = (
    "has no available versions",
    "is stopping",
    "stopped accepting",
    "is not ready",
    "server not ready",
    "is not healthy",
)
#: What an ensemble says when one of its models answered with nothing, such as a failure that the cache kept. Our
#: requests always have every required input, so it is the server's fault.
_LOST = ("missing required input", "unexpected deadlock")
#: Triton's own refusals on a stream, which have no code.
_REFUSED = (
    "request for unknown model",
    "unexpected inference input",
    "unexpected inference output",
    "unexpected shape",
    "data-type is",
    "batch-size must be",
)
#: Too large for a proxy, or for gRPC itself: sending it again cannot help.
_TOO_LARGE = "larger than max"

#: What Triton puts before the model's own words.
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")


def from_triton(status: str | None, message: str | None, url: str) -> FluxError:
    """status: `StatusCode.UNAVAILABLE` of gRPC, `503` of HTTP, or none."""
    name = (status or "").removeprefix("StatusCode.")
    words = _PREFIX.sub("", message or "no message")
    low = words.lower()
    if name == "UNAVAILABLE" and any(phrase in low for phrase in _NEVER_CONNECTED):
        return NotConnected(f"{url}: {words}")
    if name in ("UNAVAILABLE", *_BROKEN_BEHIND) and any(phrase in low for phrase in _BROKEN):
        return Unreachable(f"{url}: the connection broke before the answer came: {words}")
    if name != "CANCELLED" and any(phrase in low for phrase in _DRAINING):
        return Overloaded(words)
    if any(phrase in low for phrase in _LOST):
        return GenerationFailed(words)
    if name == "RESOURCE_EXHAUSTED" and _TOO_LARGE in low:
        return InvalidRequest(words)
    if not name and any(phrase in low for phrase in _REFUSED):
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
