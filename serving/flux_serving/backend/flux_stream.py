"""`flux_stream`: runs an ensemble with progress, previews and cancellation.

Each stream has two threads: one waits in the ensemble call, the other receives progress from the stream's socket and
sends every response to the client. A single thread for all sockets would share each response sender with the thread of
the call, and would need locks so that no progress follows the final response.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

from flux_contract import limits
from flux_contract.errors import Cancelled, InvalidRequest, Overloaded
from flux_contract.internal_tensors import (
    CANCEL,
    PREVIEW,
    PROGRESS,
    PROGRESS_ADDRESS,
    PROGRESS_PARAMETER,
    STREAM_TOKEN,
)
from flux_contract.models import FLUX_STREAM
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.ensemble_call import EnsembleCall
from flux_serving.backend.health import HEALTH, STUCK_AFTER_S
from flux_serving.backend.instance import Instance
from flux_serving.backend.progress_channel import PreviewMessage, ProgressFolder, ProgressMessage, ProgressReceiver
from flux_serving.backend.stream_options import read_cancelled_token, read_stream_options
from flux_serving.backend.wire import answer, error_response, read_inputs, refuse, send_last
from flux_serving.settings import Checkpoints

log = logging.getLogger(__name__)

#: Seconds without progress after which a stream checks whether its client is still connected, which takes 0.1 ms.
CLIENT_CHECK_S = 0.05
#: Seconds that a stopping server waits for its streams to end.
STOP_TIMEOUT_S = 10.0
#: Seconds that a traced stream may delay the next one while it waits for its call to begin.
BEGIN_TIMEOUT_S = 2.0


class FluxStreamModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        self._instance = Instance.start(FLUX_STREAM, args)
        self._folder = ProgressFolder.of_server(os.environ)
        self._folder.make()
        self._unserved = Checkpoints.from_environment(os.environ).unserved_modes()
        self._streams: list[_Stream] = []
        HEALTH.watch(lambda: None, close=self._stop_streams)
        self._instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            try:
                HEALTH.check()
                if pb_utils.get_input_tensor_by_name(request, CANCEL.name) is None:
                    self._begin(request)
                else:
                    self._cancel(request)
            except BaseException as error:
                refuse(FLUX_STREAM, request, error)

    def close(self) -> None:
        self._stop_streams()
        limit = time.monotonic() + STOP_TIMEOUT_S
        for stream in self._streams:
            stream.wait(max(0.0, limit - time.monotonic()))
        self._folder.remove()
        self._instance.close()

    def _stop_streams(self) -> None:
        for stream in self._streams:
            stream.stop()

    def _begin(self, request: Any) -> None:
        """Start a stream.

        Raises Overloaded: the limit of streams is reached. Raises InvalidRequest: the request breaks the contract.
        """
        self._streams = [stream for stream in self._streams if stream.is_alive() or stream.is_calling]
        running = sum(not stream.is_over for stream in self._streams)
        if running >= limits.MAX_STREAMS:
            raise Overloaded(f"no room for one more stream: {running} are running (limit {limits.MAX_STREAMS})")
        abandoned = [s.over_at_s for s in self._streams if s.over_at_s is not None and s.is_calling]
        if len(abandoned) >= limits.MAX_ABANDONED_CALLS:
            message = f"{len(abandoned)} calls of ended streams are still running"
            if all(time.monotonic() - over_at_s > STUCK_AFTER_S for over_at_s in abandoned):
                HEALTH.end(message)
            raise Overloaded(f"no room for one more stream: {message} (limit {limits.MAX_ABANDONED_CALLS})")
        receiver = self._folder.listen()
        try:
            stream = _Stream(request, receiver, self._unserved)
            if stream.token and any(stream.token == other.token for other in self._streams if not other.is_over):
                raise InvalidRequest(f"{STREAM_TOKEN.name} is in use by another stream")
            self._streams.append(stream)
            stream.start()
        except BaseException:
            receiver.close()
            raise
        try:
            stream.wait_if_traced(BEGIN_TIMEOUT_S)
        except BaseException:
            log.exception("%s: a trace may be incomplete", FLUX_STREAM.name)

    def _cancel(self, request: Any) -> None:
        """Cancel a stream.

        Raises InvalidRequest: no running stream has the token, or the request breaks the contract.
        """
        token = read_cancelled_token(read_inputs(FLUX_STREAM, request))
        found = [stream for stream in self._streams if stream.token == token and not stream.is_over]
        if not token or not found:
            raise InvalidRequest(f"{CANCEL.name}: no running stream has this token; it may have ended")
        found[0].cancel()
        send_last(FLUX_STREAM, request.request_id(), request.get_response_sender(), lambda: None)


class _Stream(threading.Thread):
    """One request, from its acceptance to its final response. Only this thread sends responses."""

    def __init__(self, request: Any, receiver: ProgressReceiver, unserved: Mapping[str, str]) -> None:
        """Copy the request, because Triton reclaims its memory when `execute` returns.

        unserved: modes that this server's checkpoints cannot serve, each with the reason.
        Raises InvalidRequest: the request breaks the contract, or its mode is not served.
        """
        super().__init__(name="stream", daemon=True)
        options = read_stream_options(read_inputs(FLUX_STREAM, request), unserved)
        self.token = options.token
        self._previews_as_base64 = options.previews_as_base64
        self._request_id: str = request.request_id()
        trace = request.trace()
        self._wanted = frozenset(request.requested_output_names())
        self._sender = request.get_response_sender()
        self._receiver = receiver
        #: Set once the ensemble is known to run, or has ended.
        self._begun = threading.Event()
        self._call = EnsembleCall(
            pb_utils.InferenceRequest(
                model_name=options.ensemble.name,
                request_id=self._request_id,
                timeout=request.timeout(),
                trace=trace,
                requested_output_names=[tensor.name for tensor in options.ensemble.outputs],
                # Every model of the ensemble receives the parameter, and it is not part of the response cache's key.
                parameters={PROGRESS_PARAMETER: self._receiver.address},
                inputs=[
                    *(pb_utils.Tensor(name, np.array(array)[None]) for name, array in options.inputs.items()),
                    pb_utils.Tensor(PROGRESS_ADDRESS.name, PROGRESS_ADDRESS.array(self._receiver.address)[None]),
                ],
            ),
            # Not a method of the stream: a reference cycle would keep the request's tensors alive.
            on_end=partial(_end_call, self._begun, receiver),
        )
        self._is_traced = trace.get_context() is not None
        self._stopping = False
        self._cancelled = False
        self._steps_done: dict[int, int] = {}
        #: When the stream began to send its final response, on the monotonic clock; from then on it is not running.
        self.over_at_s: float | None = None

    @property
    def is_over(self) -> bool:
        return self.over_at_s is not None

    @property
    def is_calling(self) -> bool:
        """Whether the call is running. It may outlive the stream: by one step, or forever if a model never responds."""
        return self._call.is_running

    def wait_if_traced(self, timeout_s: float) -> None:
        """Wait until the call has begun, so that it continues the request's trace. Call it from `execute`.

        Triton releases the trace when `execute` returns, unless a child trace has started by then: a call that begins
        later crashes Triton (2.51). Returns at once if the request is not traced.
        """
        if self._is_traced:
            self._begun.wait(timeout_s)

    def stop(self) -> None:
        """End the stream soon, because the server is stopping. Another thread may call it."""
        self._stopping = True
        self._receiver.wake()

    def cancel(self) -> None:
        """End the stream soon, because the client cancelled it. Another thread may call it."""
        self._cancelled = True
        self._receiver.wake()

    def wait(self, timeout_s: float) -> None:
        """Wait until the stream and its call have ended, at most timeout_s for each. Call it after `stop`."""
        for thread in (self, self._call):
            if thread.is_alive():
                thread.join(timeout_s)

    def run(self) -> None:
        for _ in range(2):
            try:
                send_last(FLUX_STREAM, self._request_id, self._sender, self._last_answer)
                return
            except BaseException:
                log.exception("%s: the response to request %r failed, retrying", FLUX_STREAM.name, self._request_id)

    def _last_answer(self) -> Any:
        try:
            return self._follow()
        except BaseException as error:
            return error_response(FLUX_STREAM, self._request_id, error)
        finally:
            self.over_at_s = time.monotonic()
            self._receiver.close()

    def _follow(self) -> Any:
        """Send progress until the call ends. Returns the final response.

        Raises Cancelled: the client cancelled or disconnected. Raises Overloaded: the server is stopping. In both cases
        the job ends before its next step. Raises FluxError: the ensemble failed.
        """
        self._call.start()
        while not self._call.has_ended:
            progress = self._receiver.receive(CLIENT_CHECK_S)
            if self._stopping:
                raise Overloaded("the server is stopping")
            if self._cancelled:
                raise Cancelled("request cancelled by the client")
            if self._sender.is_cancelled():
                raise Cancelled("the client disconnected")
            if progress is not None:
                self._begun.set()
                self._send(progress)
        while (progress := self._receiver.receive(0)) is not None:
            self._send(progress)
        return self._call.answer(self._wanted)

    def _send(self, progress: ProgressMessage) -> None:
        """Send progress.

        The progress of an image never decreases: a late preview carries the latest number of steps.
        """
        latest = self._steps_done.get(progress.image, -1)
        if progress.steps_done <= latest and progress.preview is None:
            return
        steps_done = self._steps_done[progress.image] = max(progress.steps_done, latest)
        outputs: dict[Tensor, Array] = {PROGRESS: PROGRESS.array([progress.image, steps_done, progress.steps])}
        if progress.preview is not None and PREVIEW.name in self._wanted:
            outputs[PREVIEW] = PREVIEW.array(_as_jpeg(progress.preview, self._previews_as_base64))
        if any(tensor.name in self._wanted for tensor in outputs):
            self._sender.send(answer(self._wanted, outputs))


def _end_call(begun: threading.Event, receiver: ProgressReceiver) -> None:
    begun.set()
    receiver.wake()


def _as_jpeg(preview: PreviewMessage, as_base64: bool) -> bytes:
    jpeg = io.BytesIO()
    Image.frombytes("RGB", (preview.width, preview.height), preview.rgb).save(jpeg, "JPEG", quality=85)
    return base64.b64encode(jpeg.getvalue()) if as_base64 else jpeg.getvalue()
