"""Sends the response to a request of `flux_base`: to Triton, or to the instance that handed the request over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils

from flux_contract.internal_tensors import PROGRESS_ADDRESS
from flux_contract.models import FLUX_BASE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.wire import answer, error_response, send_last

log = logging.getLogger(__name__)


class Reply(Protocol):
    """The destination of a response. wanted: names of the requested outputs. timeout_us: of the request; 0: none."""

    request_id: str
    wanted: frozenset[str]
    timeout_us: int

    def is_awaited(self) -> bool:
        """Whether the caller is still waiting, as far as is known."""

    def accepted(self) -> None:
        """Report that the request's jobs were accepted. Does not raise."""

    def answer(self, outputs: Mapping[Tensor, Array]) -> None:
        """Answer with these outputs, or with an error if they cannot be sent. Does not raise."""

    def refuse(self, error: BaseException) -> None:
        """Answer with this error. Does not raise."""


class TritonReply:
    """Answers a request that Triton sent to this instance. Holds none of its tensors."""

    def __init__(self, request: Any) -> None:
        self.request_id: str = request.request_id()
        self.wanted = frozenset[str](request.requested_output_names())
        self.timeout_us: int = request.timeout()
        self._sender = request.get_response_sender()
        self._is_streamed = is_streamed(request)

    def is_awaited(self) -> bool:
        return True

    def accepted(self) -> None:
        pass

    def answer(self, outputs: Mapping[Tensor, Array]) -> None:
        self._send(lambda: answer(self.wanted, outputs))

    def refuse(self, error: BaseException) -> None:
        self._send(lambda: error_response(FLUX_BASE, self.request_id, error, self._is_streamed))

    def _send(self, build: Any) -> None:
        send_last(FLUX_BASE, self.request_id, self._sender, build, in_words=self._is_streamed)


def refuse_surely(reply: Reply, error: BaseException) -> None:
    """Reject the request, with a second attempt if the first one fails unexpectedly. Does not raise."""
    for _ in range(2):
        try:
            reply.refuse(error)
            return
        except BaseException:
            log.exception("%s: rejecting request %r failed, retrying", FLUX_BASE.name, reply.request_id)


def is_streamed(request: Any) -> bool:
    """Whether `flux_stream` is the caller, which receives only the message of an error, not its code."""
    return pb_utils.get_input_tensor_by_name(request, PROGRESS_ADDRESS.name) is not None
