"""Call FLUX Redux on Triton: a picture in, variations of it out.

from flux_client import FluxClient

with FluxClient("localhost:8001") as client:
    variations = client.redux("cat.png", num_images=4, seed=7)
"""

from flux_client.async_client import AsyncFluxClient
from flux_client.async_stream import AsyncStream
from flux_client.client import FluxClient
from flux_client.events import Event, Preview, Progress
from flux_client.pictures import Picture, Pictures
from flux_client.request import Knobs
from flux_client.retry import RetryPolicy
from flux_client.stream import Stream
from flux_client.variation import Variation
from flux_serving.errors import (
    Cancelled,
    DeadlineExceeded,
    FluxError,
    GenerationFailed,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Unreachable,
)

__all__ = [
    "AsyncFluxClient",
    "AsyncStream",
    "Cancelled",
    "DeadlineExceeded",
    "Event",
    "FluxClient",
    "FluxError",
    "GenerationFailed",
    "InvalidRequest",
    "Knobs",
    "NotConnected",
    "Overloaded",
    "Picture",
    "Pictures",
    "Preview",
    "Progress",
    "RetryPolicy",
    "Stream",
    "Unreachable",
    "Variation",
]
