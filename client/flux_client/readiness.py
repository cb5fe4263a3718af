"""Readiness check and retry policy of `wait_until_ready`, for both clients."""

from __future__ import annotations

import sys

from flux_client.retry import RetryPolicy
from flux_contract.errors import DeadlineExceeded, FluxError, Overloaded, Unreachable
from flux_contract.models import FLUX_REDUX

#: Seconds for one check, so that a server that hangs while it starts is checked again.
PROBE_S = 5.0
#: Retries until the timeout, even if the server is unreachable.
UNTIL_READY = RetryPolicy(
    attempts=sys.maxsize, max_delay_s=1.0, jitter=0.0, retried=(Overloaded, Unreachable, DeadlineExceeded)
)


def not_ready() -> Overloaded:
    return Overloaded(f"the server responds, but {FLUX_REDUX.name} is not ready")


def gave_up(error: FluxError) -> DeadlineExceeded:
    """error: the last reason before the timeout."""
    return DeadlineExceeded(f"{FLUX_REDUX.name} did not become ready in time: {error}")
