"""Inputs and outputs: encodings, text, metadata, several images, strengths."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from flux_client import ImageResult
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from raw import call_grpc, tensors_of

pytestmark = pytest.mark.live


def vary(server: TritonServer, images: list[bytes], output_format: str = "png", **more: object) -> bytes:
    tensors = tensors_of(images, num_inference_steps=2, **more)  # type: ignore[arg-type]
    tensors["OUTPUT_FORMAT"] = np.array([[output_format.encode()]], dtype=object)
    return call_grpc(server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])["OUTPUT_IMAGE"][0]


def test_bytes_base64_and_data_url_give_same_result(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(3))
    text = base64.b64encode(image)
    assert vary(demo_server, [image]) == vary(demo_server, [text])
    assert vary(demo_server, [image]) == vary(demo_server, [b"data:image/png;base64," + text])


def test_base64_out_is_the_same_file_as_text(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(3))
    assert base64.b64decode(vary(demo_server, [image], "png;base64")) == vary(demo_server, [image])


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_result_has_requested_format_and_recipe(demo_server: TritonServer, output_format: str) -> None:
    answer = vary(demo_server, [encoded(drawn_image(3))], output_format, seed=77)
    image = Image.open(io.BytesIO(answer))
    assert (image.format, image.size) == (output_format.upper(), (64, 64))
    assert ImageResult(answer, seed=77).recipe == {
        "model": "flux-base",
        "seed": 77,
        "steps": 2,
        "guidance": 2.5,
        "width": 64,
        "height": 64,
        "instance": "flux_base_0_0",
        "device": "cpu",
    }
    assert b"trainedAlgorithmicMedia" in answer


def test_image_of_strength_0_has_no_effect(demo_server: TritonServer) -> None:
    one, other = encoded(drawn_image(3)), encoded(drawn_image(4))
    both = vary(demo_server, [one, other], strengths=[1.0, 0.0])
    assert both == vary(demo_server, [one])
    assert vary(demo_server, [one], strengths=[0.0]) == vary(demo_server, [other], strengths=[0.0])
    assert both != vary(demo_server, [one, other])


def test_strength_changes_the_image(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(3))
    answers = {vary(demo_server, [image], strengths=[strength]) for strength in (0.0, 0.5, 1.0, 2.0)}
    assert len(answers) == 4


def test_returned_random_seed_repeats_the_image(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(5))
    tensors = tensors_of([image], num_inference_steps=2, seed=-1)
    answer = call_grpc(demo_server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
    assert answer["OUTPUT_IMAGE"][0] == vary(demo_server, [image], seed=int(answer["OUTPUT_SEED"][0]))
