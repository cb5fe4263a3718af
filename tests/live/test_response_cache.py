"""Triton's response cache in front of the prior: a repeated image is not encoded again."""

from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from raw import call_grpc, tensors_of, triton_metric

pytestmark = pytest.mark.live


def cache_hits(server: TritonServer) -> float:
    return triton_metric(server, "nv_cache_num_hits_per_model", "flux_prior_redux")


def vary(server: TritonServer, image: bytes, seed: int, strengths: list[float] | None = None) -> bytes:
    tensors = tensors_of([image], strengths=strengths, num_inference_steps=1, seed=seed)
    return call_grpc(server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])["OUTPUT_IMAGE"][0]


def test_the_same_image_with_another_seed_is_answered_from_the_cache(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(801))
    first = vary(demo_server, image, seed=1)
    hits = cache_hits(demo_server)
    again = vary(demo_server, image, seed=1)
    other = vary(demo_server, image, seed=2)
    assert cache_hits(demo_server) == hits + 2
    assert first == again != other


def test_other_image_or_strength_is_not_answered_from_the_cache(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(802))
    vary(demo_server, image, seed=1)
    hits = cache_hits(demo_server)
    vary(demo_server, encoded(drawn_image(803)), seed=1)
    vary(demo_server, image, seed=1, strengths=[0.5])
    assert cache_hits(demo_server) == hits


def test_repeated_invalid_request_gets_same_error(demo_server: TritonServer) -> None:
    """Triton's cache stores a model's error as a response without outputs, so this error must be an output."""
    said = []
    for seed in (1, 2, 3):
        with pytest.raises(InferenceServerException) as caught:
            vary(demo_server, b"not an image, for the cache", seed)
        said.append((caught.value.status(), caught.value.message()))
    assert len(set(said)) == 1
    assert "flux_prior_redux: IMAGE[0]: not an image" in said[0][1]
