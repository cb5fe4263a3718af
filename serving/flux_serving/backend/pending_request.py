"""A request that is answered after `execute` has returned, exactly once."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError
from flux_contract.internal_tensors import PROGRESS_PARAMETER
from flux_contract.models import Model
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.progress_channel import ProgressFolder
from flux_serving.backend.wire import answer, read_inputs, refusal, send_last

log = logging.getLogger(__name__)


Options = TypeVar("Options")


class PendingRequest(Generic[Options]):
    """Holds the options of a request until it is answered. Any thread may answer; later answers are ignored.

    A lock guards the state of the answer.
    """

    def __init__(
        self,
        model: Model,
        request: Any,
        refusal_tensor: Tensor | None,
        folder: ProgressFolder,
        on_end: Callable[[PendingRequest[Options]], None],
    ) -> None:
        """refusal_tensor: the output that carries an error; None: Triton's own errors are used.

        Raises InvalidRequest: the request breaks the contract.
        """
        values = read_inputs(model, request)
        self.size_bytes = sum(map(_size_bytes, values.values()))
        #: The tensors that `parse` reads.
        self._values: Mapping[str, Array] = values
        self._options: Options | None = None
        self._model = model
        self._refusal_tensor = refusal_tensor
        self._folder = folder
        self._on_end = on_end
        self._request_id: str = request.request_id()
        self._wanted = frozenset(request.requested_output_names())
        self._sender = request.get_response_sender()
        timeout_us: int = request.timeout()
        self._deadline = time.monotonic() + timeout_us / 1e6 if timeout_us else None
        #: Where `flux_stream` listens, if it is the caller.
        self._address = json.loads(request.parameters() or "{}").get(PROGRESS_PARAMETER)
        self._is_open = True
        self._lock = threading.Lock()

    def parse(self, parse: Callable[[Mapping[str, Array]], Options]) -> None:
        """Parse copies of the tensors, because Triton reclaims their memory when `execute` returns. May be called once.

        Raises what `parse` raises.
        """
        values, self._values = self._values, {}
        # The elements of text tensors are already copies.
        self._options = parse(
            {name: array if array.dtype == np.object_ else np.array(array) for name, array in values.items()}
        )

    def open_options(self) -> Options:
        """Returns the options. Raises FluxError: the request is answered, timed out or cancelled."""
        options = self._options
        if (reason := self.reason_to_stop()) is not None:
            raise reason
        assert options is not None
        return options

    @property
    def is_open(self) -> bool:
        """Whether the request has not been answered yet."""
        return self._is_open

    def reason_to_stop(self) -> FluxError | None:
        """Returns why work on this request should stop; None if it should not."""
        if not self._is_open:
            return Cancelled("the request has been answered")
        if self._deadline is not None and time.monotonic() > self._deadline:
            return DeadlineExceeded("the request timed out before it was answered")
        if self._address is not None and not self._folder.is_listening(str(self._address)):
            return Cancelled("request cancelled by the client")
        return None

    def answer(self, outputs: Mapping[Tensor, Array]) -> None:
        """Answer with these outputs, unless the request has been answered. If this raises, it stays unanswered."""
        self._answer(lambda: answer(self._wanted, outputs))

    def fail(self, error: BaseException) -> None:
        """Answer with this error, unless the request has been answered. Does not raise."""
        for _ in range(2):
            try:
                self._answer(lambda: self._refusal(error))
                return
            except BaseException:
                log.exception("%s: the response to request %r failed, retrying", self._model.name, self._request_id)

    def _refusal(self, error: BaseException) -> Any:
        return refusal(self._model, self._wanted, self._request_id, error, self._refusal_tensor)

    def _answer(self, build: Callable[[], Any]) -> None:
        """Answer unless the request has been answered. If this raises, another answer may be sent."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if not was_open:
            return
        try:
            send_last(self._model, self._request_id, self._sender, build, describe=self._refusal)
        except BaseException:
            self._is_open = True
            raise
        self._options = None
        self._on_end(self)


def _size_bytes(array: Array) -> int:
    if array.dtype == np.object_:
        return sum(map(len, array.flat))
    return array.nbytes
