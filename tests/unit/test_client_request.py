from __future__ import annotations

import json
from inspect import signature
from io import BytesIO
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from flux_client import (
    AsyncFluxClient,
    CannyOptions,
    EdgesOptions,
    FluxClient,
    GenerationFailed,
    ImageResult,
    Img2ImgOptions,
    InpaintOptions,
    InvalidRequest,
    ModeName,
    ReduxOptions,
    StreamOptions,
    Text2ImgOptions,
)
from flux_client.edges import read_edges
from flux_client.image_result import read_results
from flux_client.modes import EDGES_KEYWORDS, KEYWORDS, STREAM_KEYWORDS
from flux_client.opening import open_transport
from flux_client.request import call_request, edges_request, stream_request
from flux_client.similarity import CURVE, weight_of
from flux_contract.models import FLUX_STREAM
from flux_contract.modes import BY_NAME
from flux_contract.parameter import Parameter


def png(size=(8, 8)):
    buffer = BytesIO()
    Image.new("RGB", size).save(buffer, format="PNG")
    return buffer.getvalue()


def redux_request(images, options):
    return call_request("redux", {"images": images, **options})


#: Options of each method, and its other arguments.
CALLS = {
    "redux": (ReduxOptions, {"images"}),
    "img2img": (Img2ImgOptions, {"images"}),
    "inpaint": (InpaintOptions, {"source_image", "mask_image", "images"}),
    "text2img": (Text2ImgOptions, {"prompt"}),
    "canny": (CannyOptions, {"control_image", "images"}),
}
PREVIEWS = {"preview_steps", "preview_method"}
#: Tensors that the client sets itself.
OF_STREAMS = {"STREAM_TOKEN", "CANCEL"}


def test_every_mode_of_the_contract_has_a_method():
    assert get_args(ModeName) == tuple(BY_NAME) == tuple(CALLS)


@pytest.mark.parametrize("client", [FluxClient, AsyncFluxClient])
@pytest.mark.parametrize("mode", CALLS)
def test_a_method_accepts_the_inputs_of_its_ensemble(client, mode):
    options, others = CALLS[mode]
    assert {*options.__annotations__, *others} == KEYWORDS[mode].keys()
    assert {*options.__annotations__, *others, *PREVIEWS} == STREAM_KEYWORDS[mode].keys()
    taken = signature(getattr(client, mode)).parameters
    assert others < taken.keys()
    assert taken["options"].annotation == f"Unpack[{options.__name__}]"


@pytest.mark.parametrize("client", [FluxClient, AsyncFluxClient])
def test_stream_accepts_the_inputs_of_flux_stream(client):
    taken = signature(client.stream).parameters
    assert {"images", "mode", *PREVIEWS} < taken.keys()
    told = {*StreamOptions.__annotations__, *PREVIEWS, "images"}
    assert told == {each.python_name for each in FLUX_STREAM.inputs if isinstance(each, Parameter)} | {"similarity"}
    assert {each.name for each in FLUX_STREAM.inputs if not isinstance(each, Parameter)} == {"MODE", *OF_STREAMS}


def test_edges_accepts_the_inputs_of_canny_edges():
    assert {*EdgesOptions.__annotations__, "control_image"} == EDGES_KEYWORDS.keys()


@pytest.mark.parametrize("mode", CALLS)
def test_a_method_does_not_accept_preview_options(mode):
    with pytest.raises(TypeError, match="unexpected keyword argument 'preview_steps'"):
        call_request(mode, {"preview_steps": 1})


@pytest.mark.parametrize("mode", CALLS)
def test_internal_tensors_are_not_options(mode):
    for ask in (lambda told: call_request(mode, told), lambda told: stream_request(mode, None, told)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'progress_address'"):
            ask({"progress_address": "x"})


@pytest.mark.parametrize(
    ("mode", "unknown"),
    [
        ("redux", "fit"),
        ("redux", "strength"),
        ("img2img", "similarity"),
        ("redux", "control_image"),
        ("img2img", "control_scale"),
        ("text2img", "strength"),
        ("text2img", "image_strength"),
        ("text2img", "images"),
        ("canny", "strength"),
        ("canny", "start_sigma"),
    ],
)
def test_an_option_of_another_mode_raises_a_type_error_that_lists_the_options(mode, unknown):
    own = ", ".join(KEYWORDS[mode])
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{unknown}', expected one of: {own}$"):
        call_request(mode, {unknown: 1})
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{unknown}', expected one of: {own}, preview"):
        stream_request(mode, None, {unknown: 1})


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("redux", "images"), ("img2img", "images"), ("text2img", "prompt"), ("canny", "control_image")],
)
def test_a_missing_required_argument_raises_a_type_error(mode, missing):
    for ask in (lambda: call_request(mode, {missing: None}), lambda: stream_request(mode, None, {"seed": 1})):
        with pytest.raises(TypeError, match=f"missing argument '{missing}'"):
            ask()


def test_a_stream_requests_progress_previews_and_images():
    request = stream_request("redux", b"image", {"preview_steps": 5, "preview_method": "vae", "priority": -1})
    assert request.model == "flux_stream"
    assert request.outputs == ("PROGRESS", "PREVIEW", "OUTPUT_IMAGE", "OUTPUT_SEED")
    assert {name: array.tolist() for name, array in request.inputs.items() if name != "IMAGE"} == {
        "PREVIEW_STEPS": [[5]],
        "PREVIEW_METHOD": [[b"vae"]],
        "PRIORITY": [[-1]],
    }


def test_a_stream_sends_its_mode():
    sent = {
        mode: {name: array.tolist() for name, array in stream_request(mode, images, told).inputs.items()}
        for mode, images, told in (
            ("img2img", b"image", {"strength": 0.5}),
            ("text2img", None, {"prompt": "owl"}),
            ("canny", None, {"control_image": b"house"}),
        )
    }
    assert sent == {
        "img2img": {"MODE": [[b"img2img"]], "IMAGE": [[b"image"]], "STRENGTH": [[0.5]]},
        "text2img": {"MODE": [[b"text2img"]], "PROMPT": [[b"owl"]]},
        "canny": {"MODE": [[b"canny"]], "CONTROL_IMAGE": [[b"house"]], "PROMPT": [[b""]]},
    }


@pytest.mark.parametrize("mode", ["video", "", None, 7])
def test_rejects_an_unknown_mode(mode):
    with pytest.raises(InvalidRequest, match=r"flux_stream: MODE=.*, expected one of: redux, img2img, inpaint"):
        stream_request(mode, b"image", {})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("preview_steps", -1, r"PREVIEW_STEPS=-1, expected 0\.\.100"),
        ("preview_method", "sketch", "PREVIEW_METHOD='sketch', expected one of: latent2rgb, vae"),
        ("priority", 2, r"PRIORITY=2, expected -1\.\.1"),
    ],
)
def test_errors_of_a_stream_name_flux_stream(option, value, message):
    with pytest.raises(InvalidRequest, match=f"flux_stream: {message}"):
        stream_request("redux", b"image", {option: value})


def test_omitted_options_are_not_sent():
    request = redux_request(b"image", {"prompt": None, "seed": None})
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
    ("option", "value", "message"),
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
        ("image_strength", [1.0, 1.0], "IMAGE_STRENGTH has 2 values for 1 images"),
        ("image_strength", [], "IMAGE_STRENGTH has 0 values"),
        ("image_strength", [[1.0], [1.0, 2.0]], "IMAGE_STRENGTH="),
        ("seed", -2, "SEED=-2"),
        ("seed", 2**63, "SEED="),
        ("seed", 2**70, "SEED="),
        ("seed", [], r"SEED=\[\], expected INT64"),
        ("seed", [1] * 9, r"SEED has 9 values, expected 1\.\.8"),
        ("seed", [1, -2], "SEED=-2"),
        ("seed", [1, 2.5], "SEED=.*, expected INT64"),
        ("true_cfg_scale", 0.5, r"TRUE_CFG_SCALE=0.5, expected 1\.\.30"),
        ("negative_prompt", "x" * 4097, "NEGATIVE_PROMPT has 4097 characters, expected at most 4096"),
        ("negative_prompt", ["fog"], r"NEGATIVE_PROMPT=\['fog'\], expected text"),
        ("negative_prompt", "\udcff", "NEGATIVE_PROMPT is not valid Unicode"),
        ("lora", [], r"LORA has 0 values, expected 1\.\.4"),
        ("lora", ["a"] * 5, r"LORA has 5 values, expected 1\.\.4"),
        ("lora", ["a", 7], "LORA=7, expected text"),
        ("lora", b"a", "LORA=b'a', expected text"),
        ("lora_scale", 5, r"LORA_SCALE=5, expected -4\.\.4"),
        ("prompt", "x" * 4097, "PROMPT has 4097 characters, expected at most 4096"),
        ("prompt", 7, "PROMPT=7, expected text"),
        ("output_format", "gif", "OUTPUT_FORMAT='gif', expected one of: png, jpeg, webp"),
        ("output_format", 7, "OUTPUT_FORMAT=7"),
    ],
)
def test_rejects_an_invalid_value_and_names_its_tensor(option, value, message):
    with pytest.raises(InvalidRequest, match=f"flux_redux: {message}"):
        redux_request(b"image", {option: value})


def test_an_unknown_option_raises_a_type_error_that_lists_the_options():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'heigth', expected one of: .*height"):
        redux_request(b"image", {"heigth": 512})


def images(*values):
    array = np.empty((1, len(values)), dtype=np.object_)
    array[0, :] = values
    return array


def test_a_response_becomes_one_result_for_each_image():
    answer = {"OUTPUT_IMAGE": images(png(), b"b"), "OUTPUT_SEED": np.array([[4, 5]], np.int64)}
    assert read_results(answer, "flux_redux") == [ImageResult(png(), 4), ImageResult(b"b", 5)]


@pytest.mark.parametrize(
    "answer",
    [
        {"OUTPUT_IMAGE": images(b"a")},
        {"OUTPUT_IMAGE": images(b"a"), "OUTPUT_SEED": np.array([[1, 2]])},
        {"OUTPUT_IMAGE": images(), "OUTPUT_SEED": np.array([[]])},
    ],
)
def test_an_inconsistent_response_is_a_server_error(answer):
    with pytest.raises(GenerationFailed, match="flux_redux: the response has"):
        read_results(answer, "flux_redux")


def test_a_result_decodes_detects_its_format_and_saves_its_bytes(tmp_path):
    variation = ImageResult(png((16, 32)), 9)
    assert variation.image.size == (16, 32)
    assert variation.format == "png"
    assert variation.save(tmp_path / "v.png").read_bytes() == variation.data
    assert repr(variation) == "ImageResult(seed=9)"


def test_a_result_that_is_not_an_image_is_a_server_error():
    with pytest.raises(GenerationFailed, match="seed 3 is not an image"):
        _ = ImageResult(b"junk", 3).image
    with pytest.raises(GenerationFailed, match="seed 3 is not an image"):
        _ = ImageResult(png((512, 512))[:-100], 3).image


def test_rejects_a_prompt_that_is_not_valid_unicode():
    with pytest.raises(InvalidRequest, match="PROMPT is not valid Unicode"):
        redux_request(b"image", {"prompt": "\udcff"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": ["a", "b"], "lora_scale": [1, 1, 1]}, "LORA_SCALE has 3 values for 2 adapters, expected one, or one"),
        ({"lora": "a", "lora_scale": [1, 1]}, "LORA_SCALE has 2 values for 1 adapters"),
        ({"lora_scale": [1, 1]}, "LORA_SCALE has 2 values for 0 adapters"),
        ({"seed": [1, 2, 3], "num_images": 2}, "SEED has 3 values for 2 images, expected one, or one each"),
    ],
)
def test_rejects_inconsistent_values(options, message):
    with pytest.raises(InvalidRequest, match=f"flux_text2img: {message}"):
        call_request("text2img", {"prompt": "owl", **options})


def test_seeds_and_adapters_are_counted_separately_from_images():
    options = {"seed": (7, 8, -1), "num_images": 3, "lora": ["ink", "gold"], "lora_scale": (1, -0.5)}
    sent = redux_request([b"one", b"two"], options).inputs
    assert sent["SEED"].tolist() == [[7, 8, -1]]
    assert sent["LORA"].tolist() == [[b"ink", b"gold"]]
    assert sent["LORA_SCALE"].tolist() == [[1, -0.5]]
    one = redux_request([b"one", b"two"], {"seed": 7, "num_images": 3, "lora": "ink", "lora_scale": 2}).inputs
    assert [one[name].tolist() for name in ("SEED", "LORA", "LORA_SCALE")] == [[[7]], [[b"ink"]], [[2]]]
    assert redux_request(b"one", {"seed": [7, 8]}).inputs.keys() == {"IMAGE", "SEED"}


def test_options_per_image_are_checked_against_the_number_of_redux_images():
    canny = {"control_image": b"house", "image_start": [0, 0.5]}
    assert call_request("canny", {**canny, "images": [b"one", b"two"]}).inputs["IMAGE_START"].shape == (1, 2)
    with pytest.raises(InvalidRequest, match="flux_canny: IMAGE_START has 2 values for 0 images"):
        call_request("canny", canny)
    with pytest.raises(InvalidRequest, match="flux_img2img: IMAGE_STRENGTH has 2 values for 3 images"):
        call_request("img2img", {"images": [b"one", b"two", b"three"], "image_strength": [0, 1]})


def test_strength_of_img2img_is_that_of_diffusers():
    sent = call_request("img2img", {"images": b"image", "strength": 0.3, "image_strength": 2}).inputs
    assert sent["STRENGTH"].tolist() == [[pytest.approx(0.3)]]
    assert sent["IMAGE_STRENGTH"].tolist() == [[2]]


@pytest.mark.parametrize(
    ("mode", "told", "message"),
    [
        ("img2img", {"images": b"a", "strength": 1.5}, r"flux_img2img: STRENGTH=1.5, expected 0\.\.1"),
        ("img2img", {"images": b"a", "strength": [0.5, 0.5]}, "flux_img2img: STRENGTH has shape"),
        ("img2img", {"images": b"a", "start_sigma": -0.1}, "flux_img2img: START_SIGMA=-0.1"),
        ("img2img", {"images": b"a", "fit": "tiles"}, "flux_img2img: FIT='tiles', expected one of: cover, contain"),
        ("text2img", {"prompt": ["owl"]}, "flux_text2img: PROMPT=.*, expected text"),
        ("canny", {"control_image": b"a", "control_kind": "depth"}, "flux_canny: CONTROL_KIND='depth', expected one"),
        ("canny", {"control_image": b"a", "canny_low": 2001}, "flux_canny: CANNY_LOW=2001"),
        ("canny", {"control_image": b"a", "control_scale": 2.5}, "flux_canny: CONTROL_SCALE=2.5"),
        ("canny", {"control_image": b""}, "an image is empty"),
    ],
)
def test_errors_name_the_ensemble_of_the_mode(mode, told, message):
    with pytest.raises(InvalidRequest, match=message):
        call_request(mode, told)


def test_canny_accepts_one_control_image():
    with pytest.raises(TypeError, match=r"list is not an image, .* or a NumPy array$"):
        call_request("canny", {"control_image": [b"one"]})


def test_edges_calls_canny_edges():
    request = edges_request({"control_image": b"house", "height": 64, "width": None, "canny_low": 50, "fit": "contain"})
    assert (request.model, request.outputs) == ("canny_edges", ("EDGE_IMAGE",))
    assert {name: array.tolist() for name, array in request.inputs.items()} == {
        "CONTROL_IMAGE": [[b"house"]],
        "HEIGHT": [[64]],
        "CANNY_LOW": [[50]],
        "FIT": [[b"contain"]],
    }
    with pytest.raises(TypeError, match="unexpected keyword argument 'prompt', expected one of: control_image, height"):
        edges_request({"control_image": b"house", "prompt": "owl"})


def test_a_missing_or_invalid_edge_map_is_a_server_error():
    assert read_edges({"EDGE_IMAGE": images(png((16, 32)))}).size == (16, 32)
    with pytest.raises(GenerationFailed, match="canny_edges: the response has no EDGE_IMAGE"):
        read_edges({})
    with pytest.raises(GenerationFailed, match="canny_edges: EDGE_IMAGE is not an image"):
        read_edges({"EDGE_IMAGE": images(b"junk")})


@pytest.mark.parametrize(
    "url", ["localhost", "localhost:99999", "localhost:abc", ":8001", "http://localhost:8000", "", "a:1 b:2"]
)
def test_rejects_a_url_that_is_not_host_and_port(url):
    with pytest.raises(ValueError, match="expected host:port"):
        open_transport("grpc", url)


def test_similarity_is_a_scale_from_no_image_to_the_whole_image():
    curve = [weight_of(share / 20) for share in range(21)]
    assert curve[0] == 0
    assert curve[-1] == 1
    assert curve == sorted(curve)
    sent = redux_request([b"one", b"two"], {"similarity": [0.5, 1]}).inputs["IMAGE_STRENGTH"]
    assert sent.tolist() == [[pytest.approx(weight_of(0.5)), 1]]


def test_a_similarity_of_one_half_is_halfway_on_the_measured_curve():
    curve = json.loads(CURVE.read_text())
    weights, shares = zip(*curve, strict=True)
    assert np.interp(weight_of(0.5), weights, shares) == pytest.approx(0.5)


@pytest.mark.parametrize("similarity", [1.5, -0.1, float("nan"), "half", True, [0.5, 2]])
def test_a_similarity_out_of_bounds_is_rejected(similarity):
    with pytest.raises(InvalidRequest, match=r"similarity=.*, expected 0\.\.1; image_strength accepts weights"):
        redux_request([b"one", b"two"], {"similarity": similarity})


def test_rejects_similarity_together_with_image_strength():
    with pytest.raises(InvalidRequest, match="similarity and image_strength set the same weight"):
        redux_request(b"image", {"similarity": 0.5, "image_strength": 0.5})


def test_each_image_may_have_a_mask():
    mask = Image.new("L", (8, 8), 255)
    sent = redux_request([png(), png()], {"image_mask": [None, mask]}).inputs["IMAGE_MASK"]
    assert sent[0, 0] == b""
    assert sent[0, 1].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("image_fit", ["cover", "crop"], "IMAGE_FIT='crop', expected one of: stretch, cover, contain, tiles"),
        ("image_fit", 7, "IMAGE_FIT=7, expected one of"),
        ("image_blend", "mean", "IMAGE_BLEND='mean', expected one of: concat, sum"),
        ("image_detail", 1.5, "IMAGE_DETAIL=1.5, expected INT32"),
        ("image_detail", [1, 2, 3], "IMAGE_DETAIL has 3 values for 2 images, expected one, or one each"),
        ("image_start", float("nan"), "IMAGE_START=nan, expected 0..1"),
    ],
)
def test_rejects_invalid_control_values(option, value, message):
    with pytest.raises(InvalidRequest, match=f"flux_redux: {message}"):
        redux_request([b"one", b"two"], {option: value})
