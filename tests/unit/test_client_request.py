from __future__ import annotations

import json
from inspect import signature
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flux_client import AsyncFluxClient, FluxClient, GenerationFailed, InvalidRequest, Knobs, Variation
from flux_client.opening import open_transport
from flux_client.request import redux_request, stream_request
from flux_client.strength import CURVE, weight_of
from flux_client.variation import read_variations
from flux_serving.contract.models import FLUX_STREAM


def png(size=(8, 8)):
    buffer = BytesIO()
    Image.new("RGB", size).save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_optional_inputs_of_flux_stream_are_what_stream_may_be_told():
    previews = {"preview_steps", "preview_method"}
    assert {name.upper() for name in {*Knobs.__annotations__, *previews} - {"strength"}} == {
        tensor.name for tensor in FLUX_STREAM.inputs if tensor.optional
    }
    for client in (FluxClient, AsyncFluxClient):
        assert previews < signature(client.stream).parameters.keys()


def test_redux_may_be_told_the_same_but_for_previews():
    wanted = dict.fromkeys(Knobs.__annotations__)
    assert redux_request(b"picture", wanted).model == "flux_redux"
    with pytest.raises(TypeError, match="unexpected keyword argument 'preview_steps'"):
        redux_request(b"picture", {"preview_steps": 1})


@pytest.mark.parametrize("make", [redux_request, stream_request])
def test_what_the_models_tell_each_other_is_no_knob(make):
    with pytest.raises(TypeError, match="unexpected keyword argument 'progress_address'"):
        make(b"picture", {"progress_address": "x"})


def test_a_stream_asks_flux_stream_for_progress_previews_and_pictures():
    request = stream_request(b"picture", {"preview_steps": 5, "preview_method": "vae", "priority": -1})
    assert request.model == "flux_stream"
    assert request.outputs == ("PROGRESS", "PREVIEW", "OUTPUT_IMAGE", "OUTPUT_SEED")
    assert {name: array.tolist() for name, array in request.inputs.items() if name != "IMAGE"} == {
        "PREVIEW_STEPS": [[5]],
        "PREVIEW_METHOD": [[b"vae"]],
        "PRIORITY": [[-1]],
    }


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("preview_steps", -1, r"PREVIEW_STEPS=-1, expected 0\.\.100"),
        ("preview_method", "sketch", "PREVIEW_METHOD='sketch', expected one of: latent2rgb, vae"),
        ("priority", 2, r"PRIORITY=2, expected -1\.\.1"),
    ],
)
def test_a_stream_is_held_to_the_contract_in_its_own_name(knob, value, message):
    with pytest.raises(InvalidRequest, match=f"flux_stream: {message}"):
        stream_request(b"picture", {knob: value})


def test_what_is_left_out_is_not_sent():
    request = redux_request(b"picture", {"prompt": None, "seed": None})
    assert list(request.inputs) == ["IMAGE"]
    assert request.model == "flux_redux"
    assert request.outputs == ("OUTPUT_IMAGE", "OUTPUT_SEED")


def test_values_become_tensors_with_a_leading_batch_dimension():
    request = redux_request(
        [b"one", b"two"],
        {"height": 512, "seed": 2**63 - 1, "image_strength": [1, 0.5], "guidance_scale": 3, "prompt": "Katze ä"},
    )
    assert {name: (array.dtype, array.shape) for name, array in request.inputs.items()} == {
        "IMAGE": (np.object_, (1, 2)),
        "HEIGHT": (np.int32, (1, 1)),
        "SEED": (np.int64, (1, 1)),
        "IMAGE_STRENGTH": (np.float32, (1, 2)),
        "GUIDANCE_SCALE": (np.float32, (1, 1)),
        "PROMPT": (np.object_, (1, 1)),
    }
    assert request.inputs["IMAGE"].tolist() == [[b"one", b"two"]]
    assert request.inputs["PROMPT"].item() == "Katze ä".encode()
    assert request.inputs["SEED"].item() == 2**63 - 1


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("height", 2**32 + 512, "HEIGHT="),
        ("height", 512.0, "HEIGHT=512.0, expected INT32"),
        ("height", "512", "HEIGHT='512', expected INT32"),
        ("height", True, "HEIGHT=True, expected INT32"),
        ("height", [512, 512], "HEIGHT has shape"),
        ("num_images", 0, r"NUM_IMAGES=0, expected 1\.\.8"),
        ("num_inference_steps", 101, r"NUM_INFERENCE_STEPS=101, expected 1\.\.100"),
        ("guidance_scale", float("nan"), "GUIDANCE_SCALE=nan"),
        ("image_strength", -0.1, "IMAGE_STRENGTH=-0.1"),
        ("image_strength", [1.0, 1.0], "IMAGE_STRENGTH has 2 values for 1 pictures"),
        ("image_strength", [], "IMAGE_STRENGTH has 0 values"),
        ("image_strength", [[1.0], [1.0, 2.0]], "IMAGE_STRENGTH="),
        ("seed", -2, "SEED=-2"),
        ("seed", 2**63, "SEED="),
        ("seed", 2**70, "SEED="),
        ("prompt", "x" * 4097, "PROMPT has 4097 characters, expected at most 4096"),
        ("prompt", 7, "PROMPT=7, expected text"),
        ("output_format", "gif", "OUTPUT_FORMAT='gif', expected one of: png, jpeg, webp"),
        ("output_format", 7, "OUTPUT_FORMAT=7"),
    ],
)
def test_a_value_outside_the_contract_is_refused_by_name(knob, value, message):
    with pytest.raises(InvalidRequest, match=f"flux_redux: {message}"):
        redux_request(b"picture", {knob: value})


def test_an_unknown_knob_is_a_type_error_that_lists_the_known():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'heigth', expected one of: .*height"):
        redux_request(b"picture", {"heigth": 512})


def images(*values):
    array = np.empty((1, len(values)), dtype=np.object_)
    array[0, :] = values
    return array


def test_an_answer_becomes_one_variation_for_each_picture():
    answer = {"OUTPUT_IMAGE": images(png(), b"b"), "OUTPUT_SEED": np.array([[4, 5]], np.int64)}
    assert read_variations(answer) == [Variation(png(), 4), Variation(b"b", 5)]


@pytest.mark.parametrize(
    "answer",
    [
        {"OUTPUT_IMAGE": images(b"a")},
        {"OUTPUT_IMAGE": images(b"a"), "OUTPUT_SEED": np.array([[1, 2]])},
        {"OUTPUT_IMAGE": images(), "OUTPUT_SEED": np.array([[]])},
    ],
)
def test_an_answer_that_does_not_add_up_is_the_servers_mistake(answer):
    with pytest.raises(GenerationFailed, match="flux_redux: the answer has"):
        read_variations(answer)


def test_a_variation_opens_names_its_format_and_saves_its_bytes(tmp_path):
    variation = Variation(png((16, 32)), 9)
    assert variation.image.size == (16, 32)
    assert variation.format == "png"
    assert variation.save(tmp_path / "v.png").read_bytes() == variation.data
    assert repr(variation) == "Variation(seed=9)"


def test_bytes_that_are_no_picture_are_the_servers_mistake():
    with pytest.raises(GenerationFailed, match="seed 3 is no picture"):
        _ = Variation(b"junk", 3).image
    with pytest.raises(GenerationFailed, match="seed 3 is no picture"):
        _ = Variation(png((512, 512))[:-100], 3).image


def test_a_prompt_that_is_no_unicode_is_refused():
    with pytest.raises(InvalidRequest, match="PROMPT is no valid Unicode"):
        redux_request(b"picture", {"prompt": "\udcff"})


@pytest.mark.parametrize("url", ["localhost", "localhost:99999", "localhost:abc", ":8001", "http://localhost:8000", ""])
def test_a_url_is_a_host_and_a_port(url):
    with pytest.raises(ValueError, match="expected host:port"):
        open_transport("grpc", url)


def test_strength_is_a_scale_from_no_picture_to_the_whole_picture():
    curve = [weight_of(share / 20) for share in range(21)]
    assert curve[0] == 0
    assert curve[-1] == 1
    assert curve == sorted(curve)
    sent = redux_request([b"one", b"two"], {"strength": [0.5, 1]}).inputs["IMAGE_STRENGTH"]
    assert sent.tolist() == [[pytest.approx(weight_of(0.5)), 1]]


def test_half_a_strength_goes_half_of_the_measured_way():
    curve = json.loads(CURVE.read_text())
    weights, shares = zip(*curve, strict=True)
    assert np.interp(weight_of(0.5), weights, shares) == pytest.approx(0.5)


@pytest.mark.parametrize("strength", [1.5, -0.1, float("nan"), "half", True, [0.5, 2]])
def test_a_strength_beyond_its_scale_is_refused(strength):
    with pytest.raises(InvalidRequest, match=r"strength=.*, expected 0\.\.1; image_strength takes weights"):
        redux_request([b"one", b"two"], {"strength": strength})


def test_two_scales_at_once_are_refused():
    with pytest.raises(InvalidRequest, match="strength and image_strength are two scales of the same"):
        redux_request(b"picture", {"strength": 0.5, "image_strength": 0.5})


def test_every_picture_may_have_a_mask_or_none():
    mask = Image.new("L", (8, 8), 255)
    sent = redux_request([png(), png()], {"image_mask": [None, mask]}).inputs["IMAGE_MASK"]
    assert sent[0, 0] == b""
    assert sent[0, 1].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("image_fit", ["cover", "crop"], "IMAGE_FIT='crop', expected one of: stretch, cover, contain, tiles"),
        ("image_fit", 7, "IMAGE_FIT=7, expected one of"),
        ("image_blend", "mean", "IMAGE_BLEND='mean', expected one of: concat, sum"),
        ("image_detail", 1.5, "IMAGE_DETAIL=1.5, expected INT32"),
        ("image_detail", [1, 2, 3], "IMAGE_DETAIL has 3 values for 2 pictures, expected one, or one each"),
        ("image_start", float("nan"), "IMAGE_START=nan, expected 0..1"),
    ],
)
def test_control_outside_the_contract_is_refused_by_name(knob, value, message):
    with pytest.raises(InvalidRequest, match=f"flux_redux: {message}"):
        redux_request([b"one", b"two"], {knob: value})
