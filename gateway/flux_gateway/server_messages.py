"""What REST callers are told of the model server's errors: our models' own words, and nothing of Triton's."""

from __future__ import annotations

import json
import logging
import re

from flux_contract.errors import DeadlineExceeded, FluxError, GenerationFailed, InvalidRequest, Overloaded
from flux_contract.models import ENSEMBLES, MODELS

_LOG = logging.getLogger("flux_gateway.errors")

_NAMES = "|".join([*(model.name for model in MODELS), *(ensemble.name for ensemble in ENSEMBLES)])
#: Refusals of our models begin with the model's name.
_REFUSAL = re.compile(rf"(?:{_NAMES}): .", re.DOTALL)
#: `flux_stream` puts its name before what Triton says of a failed ensemble, too; so these are listed.
_FAILURE = re.compile(
    rf"(?:{_NAMES}): (?:the latents are not finite|unexpected \w+; the server's log has the details"
    "|the stream ended without an image)"
)
#: What the client says when the time is over.
_ADDRESS = re.compile(r"^no answer from .+ within", re.DOTALL)


def for_callers(error: FluxError, request_id: str) -> FluxError:
    """The error as a caller may read it.

    Triton's own messages name shared-memory regions, files and addresses. The log has what is replaced.
    """
    if isinstance(error, DeadlineExceeded):
        return type(error)(_ADDRESS.sub("no answer from the model server within", str(error)))
    if _is_ours(error):
        return error
    _LOG.warning(json.dumps({"id": request_id, "error": type(error).__name__, "message": str(error)}))
    if isinstance(error, Overloaded):
        return type(error)("the model server has no room, or restarts; ask again")
    if isinstance(error, InvalidRequest):
        return type(error)(f"the model server refused the request; its log has the details, by request id {request_id}")
    return type(error)(f"the model server failed; its log has the details, by request id {request_id}")


def _is_ours(error: FluxError) -> bool:
    if isinstance(error, GenerationFailed):
        return _FAILURE.fullmatch(str(error)) is not None
    return _REFUSAL.match(str(error)) is not None
