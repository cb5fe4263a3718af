"""Reports the progress of a request from `flux_base` to its stream, including previews."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from torch import Tensor

from flux_contract.errors import Cancelled, InvalidRequest
from flux_contract.internal_tensors import PROGRESS_ADDRESS
from flux_contract.limits import SLOW_PREVIEW_METHODS
from flux_serving.backend.progress_channel import (
    MAX_PREVIEW_SIDE,
    PreviewMessage,
    ProgressFolder,
    ProgressMessage,
    ProgressSender,
)
from flux_serving.sampling.denoising import Denoising
from flux_serving.sampling.preview import Previewer, PreviewOptions
from flux_serving.sampling.sampler import GeneratedImage
from flux_serving.scheduling.job import Job

log = logging.getLogger(__name__)

#: Runs a function on a thread other than the one that runs steps. Returns whether there was room for it.
Aside: TypeAlias = Callable[[Callable[[], object]], bool]


class ProgressReport:
    """The progress of one request. Without a sender it does nothing."""

    def __init__(
        self, sender: ProgressSender | None, previewer: Previewer, preview: PreviewOptions, run_aside: Aside
    ) -> None:
        """run_aside: the engine's."""
        self._sender = sender
        self._previewer = previewer
        self._preview = preview
        self._run_aside = run_aside

    @classmethod
    def open(
        cls, address: str, preview: PreviewOptions, folder: ProgressFolder, previewer: Previewer, run_aside: Aside
    ) -> ProgressReport:
        """Open a report.

        address: empty if no stream listens. Raises InvalidRequest: the address is not this server's.
        """
        try:
            sender = folder.connect(address) if address else None
        except InvalidRequest as error:
            raise InvalidRequest(f"{PROGRESS_ADDRESS.name}={address[:40]!r} {error}") from None
        return cls(sender, previewer, preview, run_aside)

    def is_heard(self) -> bool:
        """Whether the request's client is still waiting, as far as is known."""
        return self._sender is None or self._sender.is_heard()

    def follow(self, jobs: Sequence[Job[Denoising, GeneratedImage]]) -> None:
        """Report that the request's jobs were accepted, and from now on each of their steps."""
        if self._sender is None:
            return
        for image, job in enumerate(jobs):
            job.on_step = partial(self._tell, image)
            self._tell(image, job)

    def end(self, error: BaseException | None = None) -> None:
        """End the report, before the request is answered. error: the error of the response."""
        if self._sender is not None:
            if isinstance(error, Cancelled):
                log.info("dropped: %s", error)
            self._sender.close()

    def _tell(self, image: int, job: Job[Denoising, GeneratedImage]) -> None:
        """Report a step, on the engine's thread. A `vae` preview takes as long as a step, so another thread makes it.

        The last step has no preview, because the image itself follows.
        """
        assert self._sender is not None
        every = self._preview.every
        is_due = 0 < job.steps_done < job.steps and every and job.steps_done % every == 0
        if not (is_due and self._sender.is_heard()):
            self._sender.send(ProgressMessage(image, job.steps_done, job.steps, None))
            return
        show = partial(self._show, image, job, job.work.estimate)
        if self._preview.method not in SLOW_PREVIEW_METHODS:
            show()
        else:
            self._sender.send(ProgressMessage(image, job.steps_done, job.steps, None))
            self._run_aside(show)

    def _show(self, image: int, job: Job[Denoising, GeneratedImage], latents: Tensor) -> None:
        """Send progress with a preview of these latents, unless the image itself follows or the stream has closed."""
        assert self._sender is not None
        if job.steps_done >= job.steps or not self._sender.is_heard():
            return
        preview = None
        try:
            rgb = self._previewer.preview(self._preview.method, latents, job.work.grid, MAX_PREVIEW_SIDE)
            preview = PreviewMessage(rgb.shape[0], rgb.shape[1], rgb.tobytes())
        except Exception:
            log.exception("a preview failed; generation of its image continues")
        if job.steps_done < job.steps:
            self._sender.send(ProgressMessage(image, job.steps_done, job.steps, preview))
