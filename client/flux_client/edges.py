"""Decodes the edge map that `edges` returns."""

from __future__ import annotations

from PIL import Image

from flux_client.image_result import decoded
from flux_client.transport import Answer
from flux_contract.errors import GenerationFailed
from flux_contract.internal_tensors import EDGE_IMAGE
from flux_contract.models import CANNY_EDGES


def read_edges(answer: Answer) -> Image.Image:
    """Decode the output of canny_edges. Raises GenerationFailed: it is missing or not an image."""
    if EDGE_IMAGE.name not in answer:
        raise GenerationFailed(f"{CANNY_EDGES.name}: the response has no {EDGE_IMAGE.name}")
    return decoded(bytes(answer[EDGE_IMAGE.name].item()), f"{CANNY_EDGES.name}: {EDGE_IMAGE.name}")
