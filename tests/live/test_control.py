"""Redux control through the real server: identity, parity with diffusers where it has the parameter, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import DEMO
from flux_client import FluxClient, ImageResult, InvalidRequest
from flux_serving.launch.server import TritonServer
from images import drawn_image
from reference import StockDiffusers

pytestmark = pytest.mark.live

IDENTITY: dict[str, Any] = {
    "image_strength": 1.0,
    "image_blend": "concat",
    "image_detail": 1,
    "image_detail_filter": "area",
    "image_detail_weight": "one",
    "image_mask": Image.new("L", (80, 60), 255),
    "image_mask_invert": 0,
    "image_mask_crop": 0,
    "image_fit": "stretch",
    "image_start": 0.0,
    "image_end": 1.0,
    "prompt_strength": 1.0,
    "prompt_start": 0.0,
    "prompt_end": 1.0,
}

#: The left half of an image of 80 x 60 pixels.
LEFT = Image.new("L", (80, 60), 0)
LEFT.paste(255, (0, 0, 40, 60))

#: All parameters, for two of these images.
TURNED: dict[str, Any] = {
    "prompt": "red apple",
    "image_strength": [0.7, 1.5],
    "image_detail": [2, 1],
    "image_detail_filter": ["triangle", "area"],
    "image_detail_weight": ["one", "all"],
    "image_mask": [None, Image.new("L", (80, 60), 128)],
    "image_mask_invert": [0, 1],
    "image_mask_crop": [0, 1],
    "image_fit": ["contain", "tiles"],
    "image_start": [0.0, 0.5],
    "image_end": [0.75, 1.0],
    "prompt_strength": 2.0,
    "prompt_start": 0.25,
    "prompt_end": 0.5,
}


@pytest.fixture(scope="module")
def client(demo_server: TritonServer) -> FluxClient:
    return FluxClient(demo_server.grpc_url)


def varied(client: FluxClient, *images: Image.Image, **knobs: Any) -> np.ndarray:
    (variation,) = client.redux(list(images), num_inference_steps=4, seed=5, **knobs)
    return np.asarray(variation.image).astype(int)


def test_identity_settings_change_no_bit(client: FluxClient) -> None:
    image = drawn_image(1)
    plain = varied(client, image)
    assert np.array_equal(varied(client, image, **IDENTITY), plain)
    for knob, value in IDENTITY.items():
        assert np.array_equal(varied(client, image, **{knob: value}), plain), knob


@pytest.mark.parametrize("knob", TURNED)
def test_every_parameter_has_an_effect(client: FluxClient, knob: str) -> None:
    """Sets each parameter with the inputs that it needs to have an effect."""
    images = [drawn_image(1), drawn_image(2)]
    needed = {
        "prompt_strength": {"prompt": "red apple"},
        "prompt_start": {"prompt": "red apple", "prompt_end": 0.5},
        "prompt_end": {"prompt": "red apple"},
        "image_detail_filter": {"image_detail": 2},
        "image_detail_weight": {"image_detail": 2},
        "image_mask_invert": {"image_mask": [None, LEFT]},
        "image_mask_crop": {"image_mask": [None, LEFT]},
    }.get(knob, {})
    value = LEFT if knob == "image_mask" else TURNED[knob]
    turned, plain = (varied(client, *images, **needed, **more) for more in ({knob: value}, {}))
    assert np.abs(turned - plain).max() > 1


def test_sum_of_images_matches_diffusers_lists_and_scales(client: FluxClient) -> None:
    stock = StockDiffusers(DEMO)
    images, scales = [drawn_image(3), drawn_image(4)], [0.6, 0.9]
    for prompt in ("", "green tree"):
        prior = stock.prior_with_text if prompt else stock.prior
        texts = {"prompt": [prompt] * 2} if prompt else {}
        condition = prior(images, prompt_embeds_scale=scales, pooled_prompt_embeds_scale=scales, **texts)
        expected = stock._run(stock.base, condition, 64, 64, 4, 2.5, 5).rgb
        actual = varied(client, *images, image_strength=scales, image_blend="sum", prompt=prompt)
        assert np.abs(actual - expected).max() <= 1


def test_pixels_outside_the_mask_have_no_effect(client: FluxClient) -> None:
    mask = Image.new("L", (80, 60), 0)
    mask.paste(255, (20, 10, 60, 50))
    one, other = drawn_image(1), drawn_image(2)
    other.paste(one, mask=mask)
    for crop in (0, 1):
        knobs = {"image_mask": mask, "image_mask_crop": crop}
        assert np.array_equal(varied(client, one, **knobs), varied(client, other, **knobs))
    assert np.abs(varied(client, one) - varied(client, other)).max() > 1


def test_inverted_mask_equals_inverted_image_of_mask(client: FluxClient) -> None:
    image = drawn_image(1)
    inverted = varied(client, image, image_mask=LEFT, image_mask_invert=1)
    assert np.array_equal(inverted, varied(client, image, image_mask=ImageOps.invert(LEFT)))
    assert np.abs(inverted - varied(client, image, image_mask=LEFT)).max() > 1


def test_contain_sees_what_cover_cuts_off(client: FluxClient) -> None:
    """Two images of 3:1 that differ at their ends."""
    one = drawn_image(1, width=180, height=60)
    other = one.copy()
    other.paste((200, 0, 0), (0, 0, 50, 60))
    assert np.array_equal(*(varied(client, image, image_fit="cover") for image in (one, other)))
    for fit in ("contain", "tiles", "stretch"):
        first, second = (varied(client, image, image_fit=fit) for image in (one, other))
        assert np.abs(first - second).max() > 1, fit


def test_transparent_parts_of_mask_are_excluded(client: FluxClient) -> None:
    cut_out = Image.new("RGBA", (80, 60), (255, 255, 255, 0))
    cut_out.paste((255, 255, 255, 255), (0, 0, 40, 60))
    images = [varied(client, drawn_image(1), image_mask=mask) for mask in (cut_out, LEFT)]
    assert np.array_equal(*images)


def test_a_very_oblong_image_takes_no_more_memory_than_others(client: FluxClient) -> None:
    """Padded to a square without downscaling, the image would take 14 GB."""
    assert varied(client, Image.new("RGB", (60000, 1), "red"), image_fit="contain").shape == (64, 64, 3)


def test_rejects_more_views_than_allowed(client: FluxClient) -> None:
    wide = Image.new("RGB", (160, 20), "red")
    with pytest.raises(InvalidRequest, match="IMAGE and IMAGE_FIT result in 24 squares, expected at most 16"):
        varied(client, wide, wide, wide, image_fit="tiles")
    assert varied(client, wide, wide, image_fit="tiles").shape == (64, 64, 3)


def test_all_parameters_together_give_same_image_alone_batched_and_streamed(client: FluxClient) -> None:
    images = [drawn_image(1), drawn_image(2)]
    alone = varied(client, *images, **TURNED)
    with client.stream(images, num_inference_steps=4, seed=5, **TURNED) as stream:
        (streamed,) = [event for event in stream if isinstance(event, ImageResult)]
    assert np.array_equal(np.asarray(streamed.image), alone)
    streams = [client.stream(drawn_image(seed), num_inference_steps=30, seed=seed) for seed in range(4)]
    in_company = varied(client, *images, **TURNED)
    for stream in streams:
        assert sum(isinstance(event, ImageResult) for event in stream) == 1
    assert np.abs(in_company - alone).max() <= 1


TWO = (drawn_image(1), drawn_image(2))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no number": ({"image_strength": float("nan")}, "IMAGE_STRENGTH=nan, expected 0..4"),
    "a negative start": ({"image_start": -0.5}, "IMAGE_START=-0.5, expected 0..1"),
    "a list of the wrong length": ({"image_detail": [1, 2, 3]}, "IMAGE_DETAIL has 3 values for 2 images"),
    "too little detail": ({"image_detail": 10}, "IMAGE_DETAIL=10, expected 1..9"),
    "an unknown fit": ({"image_fit": "crop"}, "IMAGE_FIT='crop', expected one of: stretch, cover, contain, tiles"),
    "an unknown blend": ({"image_blend": "mean"}, "IMAGE_BLEND='mean', expected one of: concat, sum"),
    "a mask of a different size": (
        {"image_mask": Image.new("L", (60, 80), 255)},
        "flux_prior_redux: IMAGE[0]: IMAGE_MASK has 60x80 pixels, expected the image's size, 80x60",
    ),
    "a mask that leaves nothing": (
        {"image_mask": [None, Image.new("L", (80, 60), 0)]},
        "flux_prior_redux: IMAGE[1]: IMAGE_MASK excludes the whole image",
    ),
    "a mask that is not an image": (
        {"image_mask": [None, b"%PDF-1.7"]},
        "flux_prior_redux: IMAGE_MASK[1]: not an image",
    ),
    "an end before the start": (
        {"image_start": 0.5, "image_end": 0.25},
        "flux_prior_redux: IMAGE_START=0.5, expected less than IMAGE_END=0.25",
    ),
    "a prompt that never is": (
        {"prompt_start": 1.0},
        "flux_prior_redux: PROMPT_START=1, expected less than PROMPT_END",
    ),
    "a sum of unlike tokens": (
        {"image_blend": "sum", "image_detail": [1, 2]},
        "flux_prior_redux: IMAGE_BLEND='sum' requires the same detail, fit, mask, start and end for all images",
    ),
    "nothing that steers": (
        {"image_strength": 0.0, "prompt_strength": 0.0},
        "flux_prior_redux: IMAGE_STRENGTH and PROMPT_STRENGTH: no image and no prompt applies after 0% of the steps",
    ),
}


@pytest.mark.parametrize(("knobs", "message"), WRONG.values(), ids=WRONG.keys())
def test_invalid_value_is_rejected_by_name_without_side_effects(
    client: FluxClient, knobs: dict[str, Any], message: str
) -> None:
    for _ in range(2):  # the second time the response cache may answer
        with pytest.raises(InvalidRequest) as caught:
            varied(client, *TWO, **knobs)
        assert message in str(caught.value)
    assert varied(client, *TWO).shape == (64, 64, 3)
