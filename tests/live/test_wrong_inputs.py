"""Invalid inputs: each gets its code and a message that says what to do, and the server keeps running."""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from raw import call_grpc, call_http, inputs_of, tensors_of

pytestmark = pytest.mark.live

GOOD = encoded(drawn_image(1))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of 69 bytes whose header claims the given size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def with_format(name: str) -> dict[str, np.ndarray]:
    return tensors_of([GOOD]) | {"OUTPUT_FORMAT": np.array([[name.encode()]], dtype=object)}


def without_image() -> dict[str, np.ndarray]:
    return {name: values for name, values in tensors_of([GOOD], seed=1).items() if name != "IMAGE"}


WRONG = {
    # Triton's own message: it calls no model without the required inputs.
    "no image": (without_image(), "unexpected deadlock, at least one output is not set"),
    "an empty list of images": (tensors_of([]), "IMAGE"),
    "an empty image": (tensors_of([b""]), "flux_prior_redux: IMAGE[0]: empty image"),
    "not an image": (tensors_of([b"hello, world!"]), "flux_prior_redux: IMAGE[0]: not an image: starts with 'hello"),
    "the second is not an image": (tensors_of([GOOD, b"%PDF-1.7"]), "IMAGE[1]: not an image"),
    "a truncated JPEG": (tensors_of([encoded(drawn_image(1), "JPEG")[:400]]), "IMAGE[0]: image is truncated"),
    "a decompression bomb": (
        tensors_of([png_that_claims(30000, 30000)]),
        "IMAGE[0]: image has 30000x30000 pixels, expected at most 67108864",
    ),
    "two images that are too large together": (
        tensors_of([encoded(Image.new("L", (8192, 4096))), encoded(Image.new("L", (8192, 4097)))]),
        "IMAGE[1]: image has 8192x4097 pixels, expected at most 33554432",
    ),
    "nine images": (tensors_of([GOOD] * 9), "flux_prior_redux: IMAGE has 9 values, expected 1..8"),
    "zero steps": (
        tensors_of([GOOD], num_inference_steps=0),
        "flux_base: NUM_INFERENCE_STEPS=0, expected 1..100",
    ),
    "a negative size": (tensors_of([GOOD], height=-64), "flux_base: HEIGHT=-64, expected 16..4096"),
    "a size between two multiples": (
        tensors_of([GOOD], width=500),
        "flux_base: WIDTH=500, expected a multiple of 16; nearest: 496 or 512",
    ),
    "guidance that is no number": (
        tensors_of([GOOD], guidance_scale=float("nan")),
        "flux_base: GUIDANCE_SCALE=nan, expected 0..30",
    ),
    "a seed below -1": (tensors_of([GOOD], seed=-7), "flux_base: SEED=-7, expected -1..2^63-1"),
    "nine images asked for": (tensors_of([GOOD], num_images=9), "flux_base: NUM_IMAGES=9, expected 1..8"),
    "an unknown format": (with_format("tga"), "flux_base: OUTPUT_FORMAT='tga', expected png, jpeg or webp"),
    "a strength too many": (
        tensors_of([GOOD], strengths=[1.0, 1.0]),
        "flux_prior_redux: IMAGE_STRENGTH has 2 values for 1 images",
    ),
    "a strength below 0": (
        tensors_of([GOOD], strengths=[-1.0]),
        "flux_prior_redux: IMAGE_STRENGTH=-1, expected 0..4",
    ),
    "a prompt that is too long": (
        tensors_of([GOOD], prompt="a" * 4097),
        "flux_prior_redux: PROMPT has 4097 characters, expected at most 4096",
    ),
}


def refusal(client_module: Any, url: str, tensors: dict[str, np.ndarray]) -> tuple[str, str]:
    call = call_grpc if client_module is tritonclient.grpc else call_http
    with pytest.raises(InferenceServerException) as caught:
        call(url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
    return str(caught.value.status()), str(caught.value.message())


def assert_serves(server: TritonServer) -> None:
    answer = call_grpc(
        server.grpc_url, "flux_redux", tensors_of([GOOD], num_inference_steps=1), ["OUTPUT_IMAGE", "OUTPUT_SEED"]
    )
    assert answer["OUTPUT_IMAGE"][0].startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", WRONG)
def test_invalid_input_is_rejected_by_name_over_both_protocols(demo_server: TritonServer, wrong: str) -> None:
    tensors, message = WRONG[wrong]
    for module, url, code in (
        (tritonclient.grpc, demo_server.grpc_url, "StatusCode.INVALID_ARGUMENT"),
        (tritonclient.http, demo_server.http_url, "400"),
    ):
        status, said = refusal(module, url, tensors)
        assert (status, message in said) == (code, True), f"{status} {said}"
        assert "Traceback" not in said
    assert_serves(demo_server)


def test_payload_of_100_megabytes_is_rejected_without_decoding(demo_server: TritonServer) -> None:
    payload = GOOD + bytes(100 * 2**20)
    status, said = refusal(tritonclient.grpc, demo_server.grpc_url, tensors_of([payload]))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert f"image has {len(payload)} bytes, expected at most 33554432" in said
    assert_serves(demo_server)


def test_rejects_body_that_is_not_json(demo_server: TritonServer) -> None:
    request = urllib.request.Request(
        f"http://{demo_server.http_url}/v2/models/flux_redux/generate", data=b'{"IMAGE": ', method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as response:
        assert response.code in (400, 500)  # Triton's own response, 500 in 2.51
        assert "error" in json.loads(response.read())
    assert_serves(demo_server)


def test_rejects_batch_of_several_requests_with_advice(demo_server: TritonServer) -> None:
    tensors = {"IMAGE": np.array([[GOOD], [GOOD]], dtype=object)}
    answer = call_grpc(demo_server.grpc_url, "flux_prior_redux", tensors, ["REFUSAL"])
    words = b"flux_prior_redux: IMAGE has batch size 2, expected 1; send separate requests (INVALID_ARG)"
    assert answer["REFUSAL"][0] == words
    with pytest.raises(InferenceServerException, match="batch"):
        call_grpc(demo_server.grpc_url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])


def test_tensors_between_models_are_checked(demo_server: TritonServer) -> None:
    good = {
        "CONTEXT": np.zeros((1, 3, 4096), np.float32),
        "CONTEXT_WEIGHTS": np.ones((1, 3), np.float32),
        "POOLED_PROJECTION": np.zeros((1, 768), np.float32),
        "NUM_INFERENCE_STEPS": np.array([[1]], np.int32),
    }
    for name, values, message in (
        ("CONTEXT", np.zeros((1, 3, 64), np.float32), "CONTEXT has tokens of width 64, expected 4096"),
        ("CONTEXT", np.full((1, 3, 4096), np.nan, np.float32), "has non-finite values"),
        ("CONTEXT_WEIGHTS", np.ones((1, 2), np.float32), "CONTEXT has 3 tokens, but CONTEXT_WEIGHTS has 2 values"),
        ("CONTEXT_WEIGHTS", np.zeros((1, 3), np.float32), "CONTEXT_WEIGHTS are all 0"),
        ("CONTEXT_WEIGHTS", np.full((1, 3), -1, np.float32), "CONTEXT_WEIGHTS=-1, expected 0..1.04858e+06"),
        ("POOLED_PROJECTION", np.zeros((1, 5), np.float32), "POOLED_PROJECTION has 5 values, expected 768"),
        ("CONTEXT_SPANS", np.zeros((1, 2, 2), np.float32), "CONTEXT has 3 tokens, but CONTEXT_SPANS has 2 rows"),
        ("CONTEXT_SPANS", np.full((1, 3, 2), 2, np.float32), "CONTEXT_SPANS=2, expected 0..1"),
        ("CONTEXT_SPANS", np.zeros((1, 3, 2), np.float32), "CONTEXT_WEIGHTS are all 0 at step 0"),
        ("POOLED_SPAN", np.array([[0, np.nan]], np.float32), "POOLED_SPAN=nan, expected 0..1"),
    ):
        with pytest.raises(InferenceServerException, match=f"flux_base: .*{message[:30]}"):
            call_grpc(demo_server.grpc_url, "flux_base", good | {name: values}, ["PIXELS"])
    assert call_grpc(demo_server.grpc_url, "flux_base", good, ["PIXELS"])["PIXELS"].shape == (1, 64, 64, 3)


def test_invalid_requests_do_not_affect_valid_ones(demo_server: TritonServer) -> None:
    def call(index: int) -> int:
        images = [GOOD] if index % 2 else [b"not an image"]
        try:
            answer = call_grpc(
                demo_server.grpc_url,
                "flux_redux",
                tensors_of(images, num_inference_steps=1, seed=index),
                ["OUTPUT_IMAGE", "OUTPUT_SEED"],
            )
        except InferenceServerException:
            return -1
        return int(answer["OUTPUT_SEED"][0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, range(32))) == [index if index % 2 else -1 for index in range(32)]


def test_excess_images_are_rejected_and_others_end_at_deadline(demo_server: TritonServer) -> None:
    """Ten requests for eight long images each, with room for 64 images and a timeout of ten seconds."""
    tensors = tensors_of([GOOD], num_inference_steps=100, num_images=8, height=512, width=512)

    def call(_: int) -> tuple[str, str]:
        with tritonclient.grpc.InferenceServerClient(demo_server.grpc_url) as client:
            with pytest.raises(InferenceServerException) as caught:
                client.infer("flux_redux", inputs_of(tritonclient.grpc, tensors), timeout=10_000_000)
            return str(caught.value.status()), str(caught.value.message())

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(call, range(10)))
    assert {status for status, _ in outcomes} == {"StatusCode.UNAVAILABLE"}
    assert sum("no room for 8 more images: 64 are waiting or running" in said for _, said in outcomes) == 2
    assert sum("the request timed out" in said for _, said in outcomes) == 8
    assert_serves(demo_server)
