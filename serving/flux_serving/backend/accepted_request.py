"""One request to `flux_base`, from its acceptance to its response."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from flux_contract.errors import FluxError
from flux_contract.internal_tensors import LATENTS, OUTPUT_SEED, PIXELS, RECIPE
from flux_contract.models import FLUX_BASE
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.progress_report import ProgressReport
from flux_serving.backend.reply import Reply
from flux_serving.sampling.denoising import Denoising
from flux_serving.sampling.sampler import GeneratedImage
from flux_serving.scheduling.job import Job

log = logging.getLogger(__name__)


class AcceptedRequest:
    """Collects the images of a request and responds once, with all of them or with the first error."""

    def __init__(self, reply: Reply, report: ProgressReport) -> None:
        self.report = report
        self._reply = reply
        self._told: dict[Tensor, Array] = {}
        self._images: list[GeneratedImage | None] = []
        self._open = True
        self._lock = threading.Lock()

    @property
    def timeout_us(self) -> int:
        """The request's timeout in microseconds; 0: none."""
        return self._reply.timeout_us

    def expect(self, seeds: Sequence[int], recipes: Sequence[str]) -> None:
        """Set the number of images to collect. recipes: one JSON text for each image."""
        self._told = {OUTPUT_SEED: OUTPUT_SEED.array(seeds), RECIPE: RECIPE.array(recipes)}
        self._images = [None] * len(seeds)

    def wants(self, output: Tensor) -> bool:
        return output.name in self._reply.wanted

    def is_wanted(self) -> bool:
        """Whether a client still waits for the response."""
        return self._open and self._reply.is_awaited() and self.report.is_heard()

    def taker(self, index: int) -> Callable[[GeneratedImage | FluxError], None]:
        """Returns the callback for the result or the error of this image. It does not raise."""

        def take(outcome: GeneratedImage | FluxError) -> None:
            try:
                self._take(index, outcome)
            except BaseException as error:
                self.fail(error)

        return take

    def begin(self, jobs: Sequence[Job[Denoising, GeneratedImage]]) -> None:
        """Report that the engine has accepted the request's jobs."""
        self.report.follow(jobs)
        self._reply.accepted()

    def fail(self, error: BaseException) -> None:
        """Respond with this error, unless the request has been answered. Does not raise."""
        for _ in range(2):
            try:
                self._end(lambda: self._reply.refuse(error), error)
                return
            except BaseException:
                log.exception("%s: the response to request %r failed, retrying", FLUX_BASE.name, self._reply.request_id)

    def _take(self, index: int, outcome: GeneratedImage | FluxError) -> None:
        """Store the outcome of one image. Any of the engine's threads may call it."""
        if isinstance(outcome, FluxError):
            self.fail(outcome)
            return
        with self._lock:
            self._images[index] = outcome
            images = [image for image in self._images if image is not None]
        if len(images) == len(self._images):
            outputs = self._told | self._outputs(images)
            self._end(lambda: self._reply.answer(outputs))

    def _outputs(self, images: Sequence[GeneratedImage]) -> dict[Tensor, Array]:
        outputs = {}
        if self.wants(LATENTS):
            outputs[LATENTS] = np.stack([image.latents for image in images])
        if self.wants(PIXELS):
            outputs[PIXELS] = np.stack([image.rgb for image in images if image.rgb is not None])
        return outputs

    def _end(self, send: Callable[[], None], error: BaseException | None = None) -> None:
        """Send the response, unless one was sent.

        If this raises, another response may be sent. error: the error that the response reports; None if it has the
        images.
        """
        with self._lock:
            was_open, self._open = self._open, False
        if not was_open:
            return
        try:
            self._end_report(error)
            send()
        except BaseException:
            self._open = True
            raise

    def _end_report(self, error: BaseException | None) -> None:
        try:
            self.report.end(error)
        except Exception:
            log.exception(
                "%s: the end of request %r was not reported to its stream", FLUX_BASE.name, self._reply.request_id
            )
