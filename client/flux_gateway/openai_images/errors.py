"""A refusal in OpenAI's body."""

from __future__ import annotations

from typing import Any

from flux_gateway.refusals import Refusal

_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def error_body(refusal: Refusal) -> dict[str, Any]:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": refusal.words,
            "type": kind,
            "param": refusal.field,
            "code": _CODES.get(refusal.status),
        }
    }
