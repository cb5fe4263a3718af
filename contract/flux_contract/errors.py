"""Every error that a caller can meet, and nothing else.

    FluxError
    ├── InvalidRequest      the caller's mistake; sending it again cannot help
    ├── Overloaded          no room now, or the server is starting or stopping; try again later
    ├── DeadlineExceeded    the caller's time ran out before the answer was ready
    ├── Cancelled           the caller, or the server's shutdown, ended the work
    ├── Unreachable         the connection broke; whether the work was done is not known
    │   └── NotConnected    no connection was made, so nothing was sent and trying again is safe
    ├── GenerationFailed    the server's mistake
    │   └── DeviceLost      the GPU can no longer be used by the model's process, which ends
    └── CannotStart         a checkpoint, a setting or a port is wrong, so the server will not start

Only `backend/` turns these into Triton's codes, and only `flux_client` turns those back into these.
A message names model, tensor, value and range: `flux_base: NUM_INFERENCE_STEPS=0, expected 1..100`.
"""

from __future__ import annotations

import re


class FluxError(Exception):
    """Base of all errors of this project."""


class InvalidRequest(FluxError):
    """The request breaks the contract; Triton answers INVALID_ARG (HTTP 400)."""


class Overloaded(FluxError):
    """There is no room now; Triton answers UNAVAILABLE (HTTP 503)."""


class DeadlineExceeded(FluxError):
    """The caller's time ran out."""


class Cancelled(FluxError):
    """The work was ended before it was done."""


class Unreachable(FluxError):
    """The connection broke before the answer came, or there was none."""


class NotConnected(Unreachable):
    """No connection was made."""


class GenerationFailed(FluxError):
    """Something unexpected went wrong in the server; Triton answers INTERNAL (HTTP 500)."""

    @classmethod
    def unexpected(cls, error: BaseException) -> GenerationFailed:
        """What a caller may know of an error that nobody foresaw; the rest belongs into the log."""
        kind = DeviceLost if is_device_lost(error) else cls
        return kind(f"unexpected {type(error).__name__}; the server's log has the details")


class DeviceLost(GenerationFailed):
    """A CUDA error after which every further CUDA call of the process fails."""


#: In the words of CUDA's runtime, as torch passes them on. Running out of memory is none of them.
#: Source: the CUDA Runtime API's error codes whose description asks to terminate and relaunch the process.
_DEVICE_LOST = re.compile(
    "illegal memory access|device-side assert|unspecified launch failure|launch timed out|uncorrectable (ECC|NVLink)"
    "|misaligned address|illegal instruction|invalid program counter|hardware stack error|device lost|GPU is lost"
    "|operation not supported on global/shared address space|CUDA error: unknown error"
)


def is_device_lost(error: BaseException) -> bool:
    """Whether only a new process can use the GPU again.

    torch raises RuntimeError, since 2.8 its sub-class AcceleratorError; our own errors may quote a caller and are none.
    """
    return isinstance(error, RuntimeError) and _DEVICE_LOST.search(str(error)) is not None


class CannotStart(FluxError):
    """A checkpoint, setting or port cannot be used; the message names the folder, the key or the number."""
