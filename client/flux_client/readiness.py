"""What `wait_until_ready` of both clients waits for, and how."""

from __future__ import annotations

import sys

from flux_client.retry import RetryPolicy
from flux_contract.errors import DeadlineExceeded, FluxError, Overloaded, Unreachable
from flux_contract.models import FLUX_REDUX

#: Seconds for one look: a server that hangs while it starts is asked again.
PROBE_S = 5.0
#: Until the time is up, whatever stands in the way.
UNTIL_READY = RetryPolicy(
    attempts=sys.maxsize, max_delay_s=1.0, jitter=0.0, retried=(Overloaded, Unreachable, DeadlineExceeded)
)


def not_ready() -> Overloaded:
    return Overloaded(f"the server responds, but {FLUX_REDUX.name} is not ready")


def gave_up(error: FluxError) -> DeadlineExceeded:
    """error: what stood in the way when the time was up."""
    return DeadlineExceeded(f"{FLUX_REDUX.name} did not become ready in time: {error}")
