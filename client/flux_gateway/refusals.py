"""What goes wrong, as a status and words; each API says it in a body of its own."""

from __future__ import annotations

from flux_serving.errors import (
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


class Refusal(Exception):
    """An answer without a picture. field: what of the request it is about. retry_after_s: where asking again helps."""

    def __init__(self, status: int, words: str, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


_STATUSES: dict[type[FluxError], int] = {
    InvalidRequest: 400,
    Overloaded: 503,
    Unreachable: 503,
    DeadlineExceeded: 504,
    Cancelled: 499,
    GenerationFailed: 500,
}


def refusal_of(error: FluxError) -> Refusal:
    """Of what Triton, or the way there, says."""
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    words = f"the model server is not reachable: {error}" if isinstance(error, Unreachable) else str(error)
    return Refusal(status, words, retry_after_s=RETRY_AFTER_S if status == 503 else None)
