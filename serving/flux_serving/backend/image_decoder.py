"""Decodes images in child processes, within a CPU budget, and stops when the request is cancelled."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil
from PIL import Image

from flux_contract.errors import CannotStart, FluxError, InvalidRequest
from flux_serving.images.decoding_process import READY
from flux_serving.images.image_decoding import TooMuchWork

log = logging.getLogger(__name__)

#: Seconds between two checks of the budget and of the request.
_CHECK_S = 0.05
#: Attempts to decode an image whose process ends without a response: the process may have been killed for another
#: reason.
_ATTEMPTS = 2

#: NumPy's threads would only waste address space, which is limited.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
#: Maximum seconds for a process to start.
_START_S = 60.0
#: The process's program. Arguments: the socket's descriptor, then folders of packages.
_PROGRAM = """
import sys
sys.path += sys.argv[2:]
from flux_serving.images.decoding_process import main
main(int(sys.argv[1]))
"""


class Allowance:
    """The limits of decoding one request's images: CPU seconds in total, and pixels times work factor of each image.

    reason_to_stop: called while an image is decoded; an error that it returns ends the decoding.
    """

    def __init__(
        self, cpu_s: float, max_work: float = math.inf, reason_to_stop: Callable[[], FluxError | None] = lambda: None
    ) -> None:
        self.cpu_s_left = self.cpu_s = cpu_s
        self.max_work = max_work
        self.reason_to_stop = reason_to_stop


class ImageDecoder:
    """A pool of decoding processes. Thread-safe.

    Processes start on demand and keep running, so there are as many as threads that have decoded at the same time.
    """

    def __init__(self) -> None:
        """Start the first process. Raises CannotStart: it cannot be started."""
        self._idle: queue.LifoQueue[_DecodingProcess] = queue.LifoQueue()
        try:
            self._idle.put(_DecodingProcess())
        except Exception as error:
            raise CannotStart(f"cannot start {sys.executable!r} to decode images: {error}") from error

    def decode(self, encoded: bytes, max_pixels: int, behind: str, allowance: Allowance) -> Image.Image:
        """Decode an image as `decode_image` does.

        Raises InvalidRequest: as `decode_image`, or it takes more CPU time than is left. Raises TooMuchWork: according
        to its header, or to its CPU time if the allowance limits the work. Raises what allowance.reason_to_stop
        returns.
        """
        ended = 0
        for _ in range(_ATTEMPTS):
            process = self._take()
            try:
                image = process.decode(encoded, max_pixels, behind, allowance)
            except _Ended as error:
                ended = error.exit_status
                log.warning("a decoding process ended with exit status %d", ended)
            except (InvalidRequest, TooMuchWork):
                self._give_back(process)
                raise
            except BaseException:
                process.kill()
                raise
            else:
                self._give_back(process)
                return image
        raise InvalidRequest(f"image cannot be decoded: its decoder ended with exit status {ended}")

    def close(self) -> None:
        """End the processes. Call it after the last `decode`."""
        while True:
            try:
                self._idle.get_nowait().kill()
            except queue.Empty:
                return

    def _take(self) -> _DecodingProcess:
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return _DecodingProcess()
            if process.is_alive():
                return process
            process.kill()

    def _give_back(self, process: _DecodingProcess) -> None:
        if process.is_alive():
            self._idle.put(process)


class _Ended(Exception):
    """The process ended while it was decoding."""

    def __init__(self, exit_status: int) -> None:
        super().__init__(exit_status)
        self.exit_status = exit_status


class _DecodingProcess:
    """One child process. Not thread-safe."""

    def __init__(self) -> None:
        """Start the process. Raises OSError or EOFError: it cannot be started."""
        own, its = socket.socketpair()
        with its:
            self._connection = Connection(own.detach())
            # The interpreter is isolated, like Triton's own Python processes, but gets the same package folders.
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, str(its.fileno()), *filter(None, sys.path)],
                pass_fds=[its.fileno()],
                env={**os.environ, **_ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._usage = psutil.Process(self._child.pid)
        if not self._connection.poll(_START_S) or self._connection.recv_bytes() != READY:
            self.kill()
            raise OSError(f"the process is not ready after {_START_S:g} s")

    def is_alive(self) -> bool:
        return self._child.poll() is None

    def decode(self, encoded: bytes, max_pixels: int, behind: str, allowance: Allowance) -> Image.Image:
        """Raises _Ended, and as `ImageDecoder.decode`. If the time has run out, the process is killed."""
        options: dict[str, object] = {"max_pixels": max_pixels, "behind": behind}
        if allowance.max_work < math.inf:
            options["max_work"] = allowance.max_work
        try:
            used_s = self._cpu_s()
            self._connection.send_bytes(json.dumps(options).encode())
            self._connection.send_bytes(encoded)
            while not self._connection.poll(_CHECK_S):
                self._stop_if_due(allowance, self._cpu_s() - used_s)
            answer = json.loads(self._connection.recv_bytes())
            if "size" in answer:
                return self._image(*map(int, answer["size"]))
        except (EOFError, OSError, psutil.Error) as error:
            raise _Ended(self.kill()) from error
        finally:
            with suppress(psutil.Error):
                allowance.cpu_s_left -= self._cpu_s() - used_s
        if "refused" in answer:
            raise InvalidRequest(answer["refused"])
        raise TooMuchWork

    def kill(self) -> int:
        """Kill the process. Returns its exit status, or the negative number of the signal that ended it."""
        if self.is_alive():
            with suppress(OSError):
                self._child.send_signal(signal.SIGKILL)
        self._connection.close()
        return self._child.wait()

    def _stop_if_due(self, allowance: Allowance, used_s: float) -> None:
        """Kill the process and raise the reason if the request is to stop or the CPU time has run out."""
        reason = allowance.reason_to_stop()
        if reason is None and used_s > allowance.cpu_s_left:
            if allowance.max_work < math.inf:
                self.kill()
                raise TooMuchWork
            reason = InvalidRequest(f"images take more than {allowance.cpu_s:g} s to decode")
        if reason is not None:
            self.kill()
            raise reason

    def _image(self, width: int, height: int) -> Image.Image:
        """Receive the decoded image. Raises _Ended: the process did not send the announced number of pixels."""
        pixels = self._connection.recv_bytes()
        if len(pixels) != 3 * width * height:
            raise _Ended(self.kill())
        return Image.frombytes("RGB", (width, height), pixels)

    def _cpu_s(self) -> float:
        times = self._usage.cpu_times()
        return times.user + times.system
