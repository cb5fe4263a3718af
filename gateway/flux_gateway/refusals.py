"""Errors with an HTTP status and a message. Each API formats them in its own body."""

from __future__ import annotations

from typing import Any

from flux_contract.errors import (
    Cancelled,
    DeadlineExceeded,
    FluxError,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    Unreachable,
)

#: Default seconds before a retry.
RETRY_AFTER_S = 2
#: Status for a client that disconnected before the response. Source: nginx.
CLIENT_CLOSED_REQUEST = 499

#: Maximum characters of a message, which may quote the caller's input.
MAX_WORDS = 1000

_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class Refusal(Exception):
    """A rejected or failed request.

    words: the message. field: the request's field that caused it. retry_after_s: seconds before a retry, if it can
    help. code: OpenAI's error code, if any.
    """

    def __init__(
        self,
        status: int,
        words: str,
        field: str | None = None,
        retry_after_s: int | None = None,
        code: str | None = None,
    ) -> None:
        words = words[:MAX_WORDS]
        super().__init__(words)
        self.status = status
        self.words = words
        self.field = field
        self.retry_after_s = retry_after_s
        self.code = code or _CODES.get(status)
        #: For 401: the value of WWW-Authenticate.
        self.challenge: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.challenge is not None:
            headers["WWW-Authenticate"] = self.challenge
        return headers


_STATUSES: dict[type[FluxError], int] = {
    InvalidRequest: 400,
    Overloaded: 503,
    Unreachable: 503,
    DeadlineExceeded: 504,
    Cancelled: CLIENT_CLOSED_REQUEST,
    GenerationFailed: 500,
}


def refusal_of(error: FluxError) -> Refusal:
    """Convert an error of Triton or of the connection to it."""
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    words = "the model server is not reachable" if isinstance(error, Unreachable) else str(error)
    return Refusal(status, words, retry_after_s=RETRY_AFTER_S if status == 503 else None)


#: Descriptions for OpenAPI, by status.
_MEANINGS = {
    400: "The request is not supported, or Triton rejected it.",
    401: "The API key is missing or unknown.",
    403: "The origin of the page is not in FLUX_GATEWAY_ORIGINS.",
    404: "It does not exist, or it belongs to another caller.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    415: "The body has an unsupported type.",
    421: "The Host header is not in FLUX_GATEWAY_HOSTS.",
    422: "A field is invalid.",
    429: "A limit of the caller is exceeded.",
    500: "Internal error; the gateway's log has the details.",
    503: "The server is loading, unreachable or full; retry after the time in Retry-After.",
    504: "The generation timed out.",
}
_OF_GENERATING = tuple(status for status in _MEANINGS if status != 404)


def documented(model: type[Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of these statuses, or of all statuses of a generation. model: of the bodies."""
    return {status: {"model": model, "description": _MEANINGS[status]} for status in statuses or _OF_GENERATING}
