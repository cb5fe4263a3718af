"""The errors of this project.

    FluxError
    ├── InvalidRequest      the request is invalid; a retry would fail too
    ├── Overloaded          the server is full, starting or stopping; a later retry can succeed
    ├── DeadlineExceeded    the request's timeout passed before the response
    ├── Cancelled           the client or the server's shutdown cancelled the request
    ├── Unreachable         the connection failed; the server may have processed the request
    │   └── NotConnected    no connection was made, so nothing was sent and a retry is safe
    ├── GenerationFailed    the server failed
    │   └── DeviceLost      the model's process cannot use the GPU any more, and exits
    └── CannotStart         a checkpoint, a setting or a port is wrong, so the server does not start

Only `backend/` converts these to Triton's codes, and only `flux_client` converts the codes to these.
A message names model, tensor, value and range: `flux_base: NUM_INFERENCE_STEPS=0, expected 1..100`.
"""

from __future__ import annotations

import re


class FluxError(Exception):
    """Base of all errors of this project."""


class InvalidRequest(FluxError):
    """The request breaks the contract. Triton responds with INVALID_ARG (HTTP 400)."""


class Overloaded(FluxError):
    """The server has no room for the request now. Triton responds with UNAVAILABLE (HTTP 503)."""


class DeadlineExceeded(FluxError):
    """The timeout of the request passed."""


class Cancelled(FluxError):
    """The request was cancelled."""


class Unreachable(FluxError):
    """The connection failed before the response, or could not be made."""


class NotConnected(Unreachable):
    """No connection was made."""


class GenerationFailed(FluxError):
    """The server failed. Triton responds with INTERNAL (HTTP 500)."""

    @classmethod
    def unexpected(cls, error: BaseException) -> GenerationFailed:
        """Return the error that a client receives for an unexpected exception. Details are only in the log."""
        kind = DeviceLost if is_device_lost(error) else cls
        return kind(f"unexpected {type(error).__name__}; the server's log has the details")


class DeviceLost(GenerationFailed):
    """A CUDA error after which every further CUDA call of the process fails."""


#: Messages of the CUDA runtime, which torch includes in its own. Out of memory is not one of them.
#: Source: the error codes of the CUDA Runtime API whose description says to terminate and relaunch the process.
_DEVICE_LOST = re.compile(
    "illegal memory access|device-side assert|unspecified launch failure|launch timed out|uncorrectable (ECC|NVLink)"
    "|misaligned address|illegal instruction|invalid program counter|hardware stack error|device lost|GPU is lost"
    "|operation not supported on global/shared address space|CUDA error: unknown error"
)


def is_device_lost(error: BaseException) -> bool:
    """Whether only a new process can use the GPU again.

    torch raises RuntimeError, since 2.8 its subclass AcceleratorError. FluxError does not count: it can quote a client.
    """
    return isinstance(error, RuntimeError) and _DEVICE_LOST.search(str(error)) is not None


class CannotStart(FluxError):
    """A checkpoint, setting or port cannot be used. The message names the folder, the key or the number."""
