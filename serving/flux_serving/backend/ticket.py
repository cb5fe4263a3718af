"""One request of `flux_base`, from its acceptance to its answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from flux_serving.backend.progress_report import ProgressReport
from flux_serving.backend.wire import answer, error_response, send_last
from flux_serving.contract.handed import LATENTS, OUTPUT_SEED, PIXELS, PROGRESS_ADDRESS, RECIPE
from flux_serving.contract.models import FLUX_BASE
from flux_serving.contract.tensors import Array, Tensor
from flux_serving.errors import FluxError
from flux_serving.stages.sampling import Picture

log = logging.getLogger(__name__)


class Ticket:
    """Collects the pictures of the request and answers it once, with all of them or with the first error.

    Keeps nothing of the request's tensors, whose memory goes back to Triton when `execute` returns.
    """

    def __init__(self, request: Any, report: ProgressReport) -> None:
        self.report = report
        #: Microseconds in which an answer is wanted; 0: any time.
        self.timeout_us: int = request.timeout()
        self._sender = request.get_response_sender()
        self._request_id: str = request.request_id()
        self._is_streamed = is_streamed(request)
        self._wanted = frozenset(request.requested_output_names())
        self._told: dict[Tensor, Array] = {}
        self._pictures: list[Picture | None] = []
        self._open = True
        self._lock = threading.Lock()

    def expect(self, seeds: Sequence[int], recipes: Sequence[str]) -> None:
        """From now on as many pictures. recipes: of each, as JSON."""
        self._told = {OUTPUT_SEED: OUTPUT_SEED.array(seeds), RECIPE: RECIPE.array(recipes)}
        self._pictures = [None] * len(seeds)

    def wants(self, output: Tensor) -> bool:
        return output.name in self._wanted

    def is_wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self._open and self.report.is_heard()

    def taker(self, index: int) -> Callable[[Picture | FluxError], None]:
        """What takes the outcome of this picture. It does not raise."""

        def take(outcome: Picture | FluxError) -> None:
            try:
                self._take(index, outcome)
            except BaseException as error:
                self.fail(error)

        return take

    def fail(self, error: BaseException) -> None:
        """Answer with this error, if there was no answer yet. Does not raise."""
        for _ in range(2):
            try:
                self._answer(lambda: error_response(FLUX_BASE, self._request_id, error, self._is_streamed), error)
                return
            except BaseException:
                log.exception("%s: request %r is answered once more", FLUX_BASE.name, self._request_id)

    def _take(self, index: int, outcome: Picture | FluxError) -> None:
        """Any of the engine's threads comes here."""
        if isinstance(outcome, FluxError):
            self.fail(outcome)
            return
        with self._lock:
            self._pictures[index] = outcome
            pictures = [picture for picture in self._pictures if picture is not None]
        if len(pictures) == len(self._pictures):
            response = answer(self._wanted, self._told | self._outputs(pictures))
            self._answer(lambda: response)

    def _outputs(self, pictures: Sequence[Picture]) -> dict[Tensor, Array]:
        outputs = {}
        if self.wants(LATENTS):
            outputs[LATENTS] = np.stack([picture.latents for picture in pictures])
        if self.wants(PIXELS):
            outputs[PIXELS] = np.stack([picture.rgb for picture in pictures if picture.rgb is not None])
        return outputs

    def _answer(self, build: Callable[[], Any], error: BaseException | None = None) -> None:
        """Only the first answer counts; the next one does where this raises. error: what it tells."""
        with self._lock:
            was_open, self._open = self._open, False
        if not was_open:
            return
        try:
            self._end_report(error)
            send_last(FLUX_BASE, self._request_id, self._sender, build, in_words=self._is_streamed)
        except BaseException:
            self._open = True
            raise

    def _end_report(self, error: BaseException | None) -> None:
        try:
            self.report.end(error)
        except Exception:
            log.exception("%s: the stream of request %r was not told of its end", FLUX_BASE.name, self._request_id)


def is_streamed(request: Any) -> bool:
    """Whether `flux_stream` is the caller, to which only the words of an error come back."""
    return pb_utils.get_input_tensor_by_name(request, PROGRESS_ADDRESS.name) is not None
