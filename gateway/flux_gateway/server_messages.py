"""Filters errors of the model server for REST callers: messages of our models pass, those of Triton do not."""

from __future__ import annotations

import json
import logging
import re

from flux_contract.errors import DeadlineExceeded, FluxError, GenerationFailed, InvalidRequest, Overloaded
from flux_contract.models import ENSEMBLES, MODELS

_LOG = logging.getLogger("flux_gateway.errors")

_NAMES = "|".join([*(model.name for model in MODELS), *(ensemble.name for ensemble in ENSEMBLES)])
#: Rejections by our models start with the model's name.
_REFUSAL = re.compile(rf"(?:{_NAMES}): .", re.DOTALL)
#: Listed explicitly, because `flux_stream` also prefixes Triton's messages about a failed ensemble with its name.
_FAILURE = re.compile(
    rf"(?:{_NAMES}): (?:the latents are not finite|unexpected \w+; the server's log has the details"
    "|the stream ended without an image)"
)
#: The client's message after a timeout.
_ADDRESS = re.compile(r"^no response from .+ within", re.DOTALL)


def for_callers(error: FluxError, request_id: str) -> FluxError:
    """Return the error with a message for callers.

    Triton's messages name shared-memory regions, files and addresses. They are logged and replaced.
    """
    if isinstance(error, DeadlineExceeded):
        return type(error)(_ADDRESS.sub("no response from the model server within", str(error)))
    if _is_ours(error):
        return error
    _LOG.warning(json.dumps({"id": request_id, "error": type(error).__name__, "message": str(error)}))
    if isinstance(error, Overloaded):
        return type(error)("the model server is full or restarting; retry later")
    if isinstance(error, InvalidRequest):
        return type(error)(
            f"the model server rejected the request; its log has the details for request id {request_id}"
        )
    return type(error)(f"the model server failed; its log has the details for request id {request_id}")


def _is_ours(error: FluxError) -> bool:
    if isinstance(error, GenerationFailed):
        return _FAILURE.fullmatch(str(error)) is not None
    return _REFUSAL.match(str(error)) is not None
