"""What `flux_base` tells a stream of the steps of its request, previews included."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from torch import Tensor

from flux_contract.errors import Cancelled, InvalidRequest
from flux_contract.internal_tensors import PROGRESS_ADDRESS
from flux_contract.limits import SLOW_PREVIEW_METHODS
from flux_contract.models import FLUX_BASE
from flux_contract.parameters import PREVIEW_METHOD, PREVIEW_STEPS
from flux_contract.tensors import Array
from flux_serving.backend.progress_channel import (
    MAX_PREVIEW_SIDE,
    PreviewMessage,
    ProgressFolder,
    ProgressMessage,
    ProgressSender,
)
from flux_serving.backend.wire import read_text
from flux_serving.sampling.denoising import Denoising
from flux_serving.sampling.preview import Previewer
from flux_serving.sampling.sampler import GeneratedImage
from flux_serving.scheduling.job import Job

log = logging.getLogger(__name__)

#: Runs something on another thread than the one that takes steps; whether there is room for it.
Aside: TypeAlias = Callable[[Callable[[], object]], bool]


class ProgressReport:
    """Of one request. Where nobody listens it does nothing."""

    def __init__(
        self, sender: ProgressSender | None, previewer: Previewer, method: str, every: int, run_aside: Aside
    ) -> None:
        """every: steps between previews; 0: none. run_aside: of the engine."""
        self._sender = sender
        self._previewer = previewer
        self._method = method
        self._every = every
        self._run_aside = run_aside

    @classmethod
    def open(
        cls, values: Mapping[str, Array], folder: ProgressFolder, previewer: Previewer, run_aside: Aside
    ) -> ProgressReport:
        """values: the request's tensors.

        Raises InvalidRequest: the address is not one of this server's own.
        """
        every = int(PREVIEW_STEPS.value_in(values))
        method = read_text(FLUX_BASE, PREVIEW_METHOD, values)
        address = read_text(FLUX_BASE, PROGRESS_ADDRESS, values)
        try:
            sender = folder.connect(address) if address else None
        except InvalidRequest as error:
            raise InvalidRequest(f"{PROGRESS_ADDRESS.name}={address[:40]!r} {error}") from None
        return cls(sender, previewer, method, every, run_aside)

    def is_heard(self) -> bool:
        """Whether the request's client is still there, as far as it can be known."""
        return self._sender is None or self._sender.is_heard()

    def follow(self, jobs: Sequence[Job[Denoising, GeneratedImage]]) -> None:
        """The jobs of the request were accepted: tell that, and from now on of every step of theirs."""
        if self._sender is None:
            return
        for image, job in enumerate(jobs):
            job.on_step = partial(self._tell, image)
            self._tell(image, job)

    def end(self, error: BaseException | None = None) -> None:
        """Before the request is answered. error: what it is answered with."""
        if self._sender is not None:
            if isinstance(error, Cancelled):
                log.info("dropped: %s", error)
            self._sender.close()

    def _tell(self, image: int, job: Job[Denoising, GeneratedImage]) -> None:
        """After a step, on the engine's thread. A `vae` preview takes as long as a step, so it is made aside.

        After the last step there is no preview: the picture itself follows, and is being made meanwhile.
        """
        assert self._sender is not None
        is_due = 0 < job.steps_done < job.steps and self._every and job.steps_done % self._every == 0
        if not (is_due and self._sender.is_heard()):
            self._sender.send(ProgressMessage(image, job.steps_done, job.steps, None))
            return
        show = partial(self._show, image, job, job.work.estimate)
        if self._method not in SLOW_PREVIEW_METHODS:
            show()
        else:
            self._sender.send(ProgressMessage(image, job.steps_done, job.steps, None))
            self._run_aside(show)

    def _show(self, image: int, job: Job[Denoising, GeneratedImage], latents: Tensor) -> None:
        """Send progress with a preview of these latents, unless the picture itself follows or nobody listens."""
        assert self._sender is not None
        if job.steps_done >= job.steps or not self._sender.is_heard():
            return
        preview = None
        try:
            rgb = self._previewer.preview(self._method, latents, job.work.grid, MAX_PREVIEW_SIDE)
            preview = PreviewMessage(rgb.shape[0], rgb.shape[1], rgb.tobytes())
        except Exception:
            log.exception("a preview failed; its picture goes on")
        if job.steps_done < job.steps:
            self._sender.send(ProgressMessage(image, job.steps_done, job.steps, preview))
