"""Client of FLUX on Triton: image variations, image-to-image, text-to-image, and images that follow edges.

from flux_client import FluxClient

with FluxClient("localhost:8001") as client:
    variations = client.redux("cat.png", num_images=4, seed=7)
"""

from flux_client.async_client import AsyncFluxClient
from flux_client.async_stream import AsyncStream
from flux_client.client import FluxClient
from flux_client.events import Event, Preview, Progress
from flux_client.image_result import ImageResult
from flux_client.images import ImageInput, ImageInputs
from flux_client.installed import __version__
from flux_client.instance_load import InstanceLoad
from flux_client.keywords import (
    CannyOptions,
    EdgesOptions,
    Img2ImgOptions,
    InpaintOptions,
    ModeName,
    ReduxOptions,
    StreamOptions,
    Text2ImgOptions,
)
from flux_client.retry import FAIL_OVER, RetryPolicy
from flux_client.stream import Stream
from flux_contract.errors import (
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
    "FAIL_OVER",
    "AsyncFluxClient",
    "AsyncStream",
    "Cancelled",
    "CannyOptions",
    "DeadlineExceeded",
    "EdgesOptions",
    "Event",
    "FluxClient",
    "FluxError",
    "GenerationFailed",
    "ImageInput",
    "ImageInputs",
    "ImageResult",
    "Img2ImgOptions",
    "InpaintOptions",
    "InstanceLoad",
    "InvalidRequest",
    "ModeName",
    "NotConnected",
    "Overloaded",
    "Preview",
    "Progress",
    "ReduxOptions",
    "RetryPolicy",
    "Stream",
    "StreamOptions",
    "Text2ImgOptions",
    "Unreachable",
    "__version__",
]
