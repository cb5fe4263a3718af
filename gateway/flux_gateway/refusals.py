"""What goes wrong, as a status and words; each API says it in a body of its own."""

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

#: Seconds after which to ask again, where nothing better is known.
RETRY_AFTER_S = 2
#: Of an answer that nobody reads, because the client hung up. Source: nginx.
NOBODY_THERE = 499

#: Characters of a message: it may quote what the caller sent.
MAX_WORDS = 1000

_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class Refusal(Exception):
    """An answer without an image.

    field: what of the request it is about. retry_after_s: where asking again helps. code: OpenAI's, where it has one.
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
        #: Of a 401: the authentication that is asked for.
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
    Cancelled: NOBODY_THERE,
    GenerationFailed: 500,
}


def refusal_of(error: FluxError) -> Refusal:
    """Of what Triton, or the way there, says."""
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    words = "the model server is not reachable" if isinstance(error, Unreachable) else str(error)
    return Refusal(status, words, retry_after_s=RETRY_AFTER_S if status == 503 else None)


#: By status, for the description of the API: of what generates.
_MEANINGS = {
    400: "It asks for what is not served, or Triton refuses it.",
    401: "The API key is missing or unknown.",
    403: "A page of another origin asked; FLUX_GATEWAY_ORIGINS allows origins.",
    404: "There is none, or it is another caller's.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    415: "The body is of another type.",
    421: "The Host header names another host; FLUX_GATEWAY_HOSTS allows names.",
    422: "A field is wrong.",
    429: "The caller's own limits are reached.",
    500: "It broke; the gateway's log has the details.",
    503: "Loading, away or full; Retry-After tells when to ask again.",
    504: "It took too long.",
}
_OF_GENERATING = tuple(status for status in _MEANINGS if status != 404)


def documented(model: type[Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals with these statuses, for OpenAPI; without any: those of a generation. model: of their bodies."""
    return {status: {"model": model, "description": _MEANINGS[status]} for status in statuses or _OF_GENERATING}
