"""The base class of the models that decode or encode images, and their bounded queue.

`execute` only parses a request into options. The request then passes two stages: `prepare` runs in several threads, and
`finish` answers prepared requests in one thread, several at a time. Requests whose images take long to decode are
prepared in separate threads, so that others overtake them.

Triton's own limit of a model's queue, `max_queue_size`, is not used: Triton 2.51 crashes when it rejects a step of an
ensemble while another step is running, as in `flux_img2img`.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image

from flux_contract import limits
from flux_contract.errors import GenerationFailed, InvalidRequest, Overloaded
from flux_contract.models import Model
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.health import HEALTH
from flux_serving.backend.image_decoder import Allowance, ImageDecoder
from flux_serving.backend.instance import Instance
from flux_serving.backend.lanes import Lane, LaneLimits, make_lanes
from flux_serving.backend.pending_request import Options, PendingRequest
from flux_serving.backend.progress_channel import ProgressFolder
from flux_serving.backend.wire import refuse
from flux_serving.images.image_decoding import Decode, TooMuchWork
from flux_serving.settings import ModelSettings

log = logging.getLogger(__name__)

#: Seconds between two checks for passed deadlines and disconnected clients.
_WATCH_S = 0.1


Prepared = TypeVar("Prepared")


class QueuedModelBase(ABC, Generic[Options, Prepared]):
    """One instance of a model whose requests wait in a `RequestQueue`.

    An exception of `parse`, `prepare` or `outputs` is the error of the request.
    """

    contract: ClassVar[Model]
    #: The output that carries an error; None: Triton's own errors are used.
    refusal_tensor: ClassVar[Tensor | None] = None
    #: Maximum number of requests in a call of `finish`.
    max_together: ClassVar[int] = 1
    #: Whether `prepare` decodes images.
    decodes: ClassVar[bool] = True

    def __init__(self, args: Mapping[str, str]) -> None:
        """args: Triton's arguments of `initialize`.

        Raises CannotStart: a setting or a checkpoint is invalid, or images cannot be decoded here.
        """
        self._instance = Instance.start(self.contract, args)
        self.load(self._instance)
        self._queue = RequestQueue(self, self._instance.settings)
        self._instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        self._queue.accept(requests)

    def close(self) -> None:
        self._queue.close()
        self._instance.close()

    def load(self, instance: Instance) -> None:
        """Load the models that requests need, before the first request arrives."""

    @abstractmethod
    def parse(self, values: Mapping[str, Array]) -> Options:
        """Parse a request, in `execute`.

        values: copies of the tensors that are present, by name, already checked against the contract.
        """

    @abstractmethod
    def prepare(self, options: Options, decode: Decode) -> Prepared:
        """Do the work that requests do not share. Runs in several threads."""

    @abstractmethod
    def outputs(self, prepared: Prepared) -> Mapping[Tensor, Array]:
        """Returns the outputs of one request, without the batch dimension. Runs in one thread."""

    def finish(self, batch: Sequence[tuple[PendingRequest[Options], Prepared]]) -> None:
        """Answer requests, in the same thread. An error of one does not fail the others; unanswered requests fail."""
        for pending, prepared in batch:
            try:
                pending.answer(self.outputs(prepared))
            except Exception as error:
                pending.fail(error)


class RequestQueue(Generic[Options, Prepared]):
    """The queue of one model instance. It accepts requests while there is room, and answers each exactly once.

    A waiting or preparing request fails when its deadline passes or its stream's client disconnects. The lanes' threads
    prepare, one thread finishes, and one watches deadlines. A lock guards the set of pending requests.
    """

    def __init__(self, model: QueuedModelBase[Options, Prepared], settings: ModelSettings) -> None:
        """Raises CannotStart: images cannot be decoded here."""
        self._model = model
        self._settings = settings
        self._folder = ProgressFolder.of_server(os.environ)
        self._decoder = ImageDecoder() if model.decodes else None
        #: Requests that are accepted and not answered.
        self._pending: set[PendingRequest[Options]] = set()
        self._pending_bytes = 0
        self._ready: deque[tuple[PendingRequest[Options], Prepared]] = deque()
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        #: Limits the requests that are being prepared or are prepared, because they may hold much memory.
        self._slots = threading.Semaphore(2 * settings.workers + 1 + model.max_together)
        self._lanes = make_lanes(settings.workers, settings.decode_s)
        self._finisher = ThreadPoolExecutor(1, "finish")
        self._watcher = threading.Thread(target=self._watch, name="deadlines", daemon=True)
        self._watcher.start()
        HEALTH.watch(lambda: None, close=self._fail_all)

    def accept(self, requests: Sequence[Any]) -> None:
        """Accept requests while there is room, and reject the others. Called from `execute`."""
        for request in requests:
            try:
                HEALTH.check()
                pending = self._take(request)
            except BaseException as error:
                refuse(self._model.contract, request, error, tensor=self._model.refusal_tensor)
                continue
            try:
                self._submit(pending, 0)
            except BaseException as error:
                pending.fail(error)

    def close(self) -> None:
        """Fail unanswered requests, and end the threads and processes."""
        self._is_closing.set()
        self._fail_all()
        self._watcher.join()
        for executor in (*(lane.executor for lane in self._lanes), self._finisher):
            executor.shutdown()
        if self._decoder is not None:
            self._decoder.close()

    def _fail_all(self) -> None:
        for pending in self._snapshot():
            pending.fail(Overloaded("the server is stopping"))

    def _take(self, request: Any) -> PendingRequest[Options]:
        """Accept a request.

        Raises Overloaded: there is no room. Raises InvalidRequest: the request breaks the contract.
        """
        most = self._settings.max_pending
        if len(self._pending) >= most:
            raise Overloaded(f"no room for one more request: {most} are waiting or running (limit {most})")
        pending: PendingRequest[Options] = PendingRequest(
            self._model.contract, request, self._model.refusal_tensor, self._folder, self._ended
        )
        size, left = pending.size_bytes, limits.MAX_PENDING_BYTES - self._pending_bytes
        if size > limits.MAX_PENDING_BYTES // 2:
            raise InvalidRequest(f"request has {size} bytes, at most {limits.MAX_PENDING_BYTES // 2} are allowed")
        if size > left // 2:  # so that many large requests leave room for small ones
            raise Overloaded(f"no room for one more request of {size} bytes: pending requests leave {left // 2}")
        pending.parse(self._model.parse)
        with self._lock:
            self._pending_bytes += pending.size_bytes
            self._pending.add(pending)
        return pending

    def _ended(self, pending: PendingRequest[Options]) -> None:
        with self._lock:
            self._pending.discard(pending)
            self._pending_bytes -= pending.size_bytes

    def _snapshot(self) -> list[PendingRequest[Options]]:
        with self._lock:
            return list(self._pending)

    def _watch(self) -> None:
        while not self._is_closing.wait(_WATCH_S):
            for pending in self._snapshot():
                if pending.is_open and (reason := pending.reason_to_stop()) is not None:
                    pending.fail(reason)

    def _submit(self, pending: PendingRequest[Options], lane: int) -> None:
        """Submit a request to a lane. Raises Overloaded: the lane has no room."""
        entered = self._lanes[lane]
        entered.enter(pending)
        try:
            entered.executor.submit(self._prepare, pending, lane).add_done_callback(
                partial(self._end_preparing, pending, entered)
            )
        except BaseException:
            entered.leave(pending)
            raise

    def _end_preparing(self, pending: PendingRequest[Options], lane: Lane, preparing: Future[None]) -> None:
        lane.leave(pending)
        if (error := preparing.exception()) is not None:
            pending.fail(error)

    def _prepare(self, pending: PendingRequest[Options], lane: int) -> None:
        """Prepare a request, in a thread of the lane. An exception fails the request."""
        while not self._slots.acquire(timeout=_WATCH_S):
            if not pending.is_open:
                return
        is_ready = False
        try:
            is_ready = self._prepare_within(self._lanes[lane].bounds, pending)
        except TooMuchWork:
            self._submit(pending, lane + 1)
        except BaseException as error:
            pending.fail(error)
            raise
        finally:
            if not is_ready:
                self._slots.release()

    def _prepare_within(self, bounds: LaneLimits, pending: PendingRequest[Options]) -> bool:
        """Returns True once the request is ready and keeps its slot.

        Raises TooMuchWork: it belongs to the next lane.
        """
        options = pending.open_options()
        allowance = Allowance(bounds.cpu_s, bounds.max_work, pending.reason_to_stop)

        def decode(encoded: bytes, max_pixels: int = limits.MAX_IMAGE_PIXELS, behind: str = "white") -> Image.Image:
            assert self._decoder is not None
            return self._decoder.decode(encoded, max_pixels, behind, allowance)

        self._ready.append((pending, self._model.prepare(options, decode)))
        self._finisher.submit(self._finish).add_done_callback(partial(self._end_finishing, pending))
        return True

    def _end_finishing(self, pending: PendingRequest[Options], finishing: Future[None]) -> None:
        if (error := finishing.exception()) is not None:
            pending.fail(error)

    def _finish(self) -> None:
        """Finish the ready requests, in the finishing thread; none if an earlier call has finished them."""
        batch: list[tuple[PendingRequest[Options], Prepared]] = []
        try:
            while self._ready and len(batch) < self._model.max_together:
                batch.append(self._ready.popleft())
            going_on = [(pending, prepared) for pending, prepared in batch if not _is_stopped(pending)]
            if going_on:
                self._model.finish(going_on)
        except BaseException as error:
            log.error("%s: a batch of %d requests failed", self._model.contract.name, len(batch), exc_info=error)
            raise
        finally:
            for pending, _ in batch:
                pending.fail(GenerationFailed("the request was not answered; the server's log has the details"))
                self._slots.release()


def _is_stopped(pending: PendingRequest[Any]) -> bool:
    """Whether work on the request should stop; if so, fail it."""
    if (reason := pending.reason_to_stop()) is None:
        return False
    pending.fail(reason)
    return True
