"""`flux_stream`: what the ensembles do, with progress, previews and cancellation.

It calls them, so no path exists twice. Each stream has two threads: one waits in the call, the other takes
progress from the stream's socket and sends all that the client gets. One thread for all sockets would share every
response sender with the thread of the call, and would need locks so that no progress follows the last answer.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

from flux_serving.backend.instance import Instance
from flux_serving.backend.progress_channel import Preview, Progress, ProgressFolder, ProgressReceiver
from flux_serving.backend.wire import answer, error_response, read_inputs, read_text
from flux_serving.contract import limits
from flux_serving.contract.codes import error_of
from flux_serving.contract.handed import PREVIEW, PROGRESS, PROGRESS_ADDRESS
from flux_serving.contract.knobs import OUTPUT_FORMAT
from flux_serving.contract.models import BY_MODE, FLUX_STREAM, MODE, Ensemble
from flux_serving.contract.tensors import Array, Tensor
from flux_serving.errors import Cancelled, InvalidRequest, Overloaded
from flux_serving.stages.picture_encoding import parse_format

log = logging.getLogger(__name__)

#: Seconds without progress after which a stream looks whether its client is still there, which takes 0.1 ms.
CLIENT_CHECK_S = 0.05
#: Seconds that a stopping server waits for a stream to end.
STOP_TIMEOUT_S = 10.0
#: Seconds that a traced stream may hold up the next, until its call has begun.
BEGIN_TIMEOUT_S = 2.0

#: What Triton says instead of beginning the next model of an ensemble when it has been asked to stop.
_STOPPING = "Server is stopping"

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class FluxStreamModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        self._instance = Instance.start(FLUX_STREAM, args)
        self._folder = ProgressFolder.of_server(os.environ)
        self._folder.make()
        self._streams: list[_Stream] = []
        self._instance.heart.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._begin(request, sender)
            except Exception as error:
                sender.send(error_response(FLUX_STREAM, request.request_id(), error), flags=_FINAL)

    def close(self) -> None:
        for stream in self._streams:
            stream.stop()
        for stream in self._streams:
            stream.wait(STOP_TIMEOUT_S)
        self._folder.remove()
        self._instance.close()

    def _begin(self, request: Any, sender: Any) -> None:
        """Raises Overloaded: there is no room. Raises InvalidRequest: the request breaks the contract."""
        self._streams = [stream for stream in self._streams if stream.is_alive() or stream.is_busy]
        running = sum(stream.is_busy for stream in self._streams)
        if running >= limits.MAX_STREAMS:
            raise Overloaded(f"no room for one more stream: {running} are running, at most {limits.MAX_STREAMS} may")
        receiver = self._folder.listen()
        try:
            stream = _Stream(request, sender, receiver)
            stream.start()
        except BaseException:
            receiver.close()
            raise
        self._streams.append(stream)
        stream.wait_if_traced(BEGIN_TIMEOUT_S)


class _Stream(threading.Thread):
    """One request, from its acceptance to its last answer. Only this thread sends answers."""

    def __init__(self, request: Any, sender: Any, receiver: ProgressReceiver) -> None:
        """Copies the request, whose memory goes back to Triton when `execute` returns.

        Raises InvalidRequest: the request breaks the contract.
        """
        super().__init__(name="stream", daemon=True)
        values = read_inputs(FLUX_STREAM, request)
        ensemble = BY_MODE[read_text(FLUX_STREAM, MODE, values)]
        values.pop(MODE.name, None)
        _check_mode(ensemble, values)
        self._as_text = parse_format(read_text(FLUX_STREAM, OUTPUT_FORMAT, values)).as_base64
        self._request_id: str = request.request_id()
        trace = request.trace()
        self._wanted = frozenset(request.requested_output_names())
        self._sender = sender
        self._receiver = receiver
        #: Set once the ensemble is known to run, or has ended.
        self._begun = threading.Event()
        self._call = _Call(
            pb_utils.InferenceRequest(
                model_name=ensemble.name,
                request_id=self._request_id,
                timeout=request.timeout(),
                trace=trace,
                requested_output_names=[tensor.name for tensor in ensemble.outputs],
                inputs=[
                    *(pb_utils.Tensor(name, np.array(array)[None]) for name, array in values.items()),
                    pb_utils.Tensor(PROGRESS_ADDRESS.name, PROGRESS_ADDRESS.array(self._receiver.address)[None]),
                ],
            ),
            ensemble=ensemble,
            # Not a method of the stream: a reference cycle would keep the request's tensors after its end.
            on_end=partial(_end_call, self._begun, receiver),
        )
        self._is_traced = trace.get_context() is not None
        self._stopping = False
        self._steps_done: dict[int, int] = {}
        self._is_over = False

    @property
    def is_busy(self) -> bool:
        """Whether it takes a place: its last answer isn't on its way yet, or its call outlives it by a step."""
        return not self._is_over or self._call.is_running

    def wait_if_traced(self, timeout_s: float) -> None:
        """From `execute`: until the call has begun, so that it continues the request's trace.

        The trace is gone once `execute` has returned, unless by then another has been begun in it: a call that begins
        later brings Triton down (2.51). What is not traced need not wait.
        """
        if self._is_traced:
            self._begun.wait(timeout_s)

    def stop(self) -> None:
        """From another thread: end soon."""
        self._stopping = True
        self._receiver.wake()

    def wait(self, timeout_s: float) -> None:
        """From another thread, after `stop`: until the stream and its call have ended, each for so long at most."""
        for thread in (self, self._call):
            if thread.is_alive():
                thread.join(timeout_s)

    def run(self) -> None:
        try:
            last = self._follow()
        except Exception as error:
            last = error_response(FLUX_STREAM, self._request_id, error)
        self._receiver.close()
        self._is_over = True
        try:
            self._sender.send(last, flags=_FINAL)
        except Exception:
            log.exception("%s: the last answer of request %r could not be sent", FLUX_STREAM.name, self._request_id)

    def _follow(self) -> Any:
        """Send progress until the call ends. Returns the last answer.

        Raises Cancelled: the client has gone. Raises Overloaded: the server stops. In both cases the job ends before
        its next step. Raises FluxError: the ensemble failed.
        """
        self._call.start()
        while not self._call.has_ended:
            progress = self._receiver.receive(CLIENT_CHECK_S)
            if self._stopping:
                raise Overloaded("the server is stopping")
            if self._sender.is_cancelled():
                raise Cancelled("the client has gone")
            if progress is not None:
                self._begun.set()
                self._send(progress)
        while (progress := self._receiver.receive(0)) is not None:
            self._send(progress)
        return self._call.answer(self._wanted)

    def _send(self, progress: Progress) -> None:
        """Progress of an image never goes back; a preview that took its time comes with the steps done by then."""
        latest = self._steps_done.get(progress.image, -1)
        if progress.steps_done <= latest and progress.preview is None:
            return
        steps_done = self._steps_done[progress.image] = max(progress.steps_done, latest)
        outputs: dict[Tensor, Array] = {PROGRESS: PROGRESS.array([progress.image, steps_done, progress.steps])}
        if progress.preview is not None and PREVIEW.name in self._wanted:
            outputs[PREVIEW] = PREVIEW.array(_as_jpeg(progress.preview, self._as_text))
        if any(tensor.name in self._wanted for tensor in outputs):
            self._sender.send(answer(self._wanted, outputs))


def _end_call(begun: threading.Event, receiver: ProgressReceiver) -> None:
    begun.set()
    receiver.wake()


def _check_mode(ensemble: Ensemble, values: Mapping[str, Array]) -> None:
    """Raises InvalidRequest: the ensemble needs an input that is not there, or has no use for one that is."""
    known = {tensor.name: tensor for tensor in ensemble.inputs}
    if missing := [name for name, tensor in known.items() if not tensor.optional and name not in values]:
        raise InvalidRequest(f"{missing[0]} is missing, which {ensemble.name} needs")
    if strange := [name for name in values if name not in known]:
        raise InvalidRequest(f"{strange[0]} is no input of {ensemble.name}; {MODE.name} names another ensemble")


class _Call(threading.Thread):
    """A call of the ensemble, which blocks until its answer is there.

    Triton has calls that don't block; `async_exec` and coroutines in `execute` have open bugs.
    """

    def __init__(self, request: Any, ensemble: Ensemble, on_end: Callable[[], None]) -> None:
        super().__init__(name="ensemble call", daemon=True)
        self._request = request
        self._ensemble = ensemble
        self._on_end = on_end
        self._outcome: Any = None
        self.has_ended = False

    @property
    def is_running(self) -> bool:
        return self.is_alive() and not self.has_ended

    def run(self) -> None:
        try:
            self._outcome = self._request.exec()
        except Exception as error:
            self._outcome = error
        self.has_ended = True
        self._on_end()

    def answer(self, wanted: frozenset[str]) -> Any:
        """The ensemble's answer. Raises its failure, in the failed model's own words, or what the call raised."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        if self._outcome.has_error():
            message = self._outcome.error().message()
            if _STOPPING in message:
                raise Overloaded("the server is stopping")
            raise error_of(message.removeprefix(f"in ensemble '{self._ensemble.name}', "))
        return pb_utils.InferenceResponse(
            [tensor for tensor in self._outcome.output_tensors() if tensor.name() in wanted]
        )


def _as_jpeg(preview: Preview, as_text: bool) -> bytes:
    """as_text: base64, which JSON can carry."""
    jpeg = io.BytesIO()
    Image.frombytes("RGB", (preview.width, preview.height), preview.rgb).save(jpeg, "JPEG", quality=85)
    return base64.b64encode(jpeg.getvalue()) if as_text else jpeg.getvalue()
