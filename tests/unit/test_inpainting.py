"""Inpainting: masks are resized as in diffusers, and the result is pasted into the source image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageDraw, ImageOps

from flux_contract.errors import InvalidRequest
from flux_serving.images.canvas import Canvas, paste
from flux_serving.images.image_decoding import decode_image
from flux_serving.images.inpainting import InpaintedImage, MaskOptions, mask_of_latents, prepare_inpainting
from flux_serving.images.resizing import SizedImage
from images import drawn_image, encoded

#: Width and height of the generated image; the source image has 80x60 pixels.
SIZE = (64, 48)
DISC = Image.new("L", (320, 240))
ImageDraw.Draw(DISC).ellipse([80, 60, 240, 160], fill=255)
#: White with grey edges on black, and the same without grey.
MASK = DISC.resize((80, 60), Image.Resampling.BOX)
HARD_MASK = MASK.point([0] * 128 + [255] * 128)
#: The same as in `FluxInpaintPipeline`.
MASK_PROCESSOR = VaeImageProcessor(
    vae_scale_factor=16, do_normalize=False, do_binarize=True, do_convert_grayscale=True, resample="lanczos"
)


def prepared(
    mask: Image.Image | bytes = MASK,
    source: Image.Image | None = None,
    size: tuple[int, int] = SIZE,
    fit: str = "stretch",
    **changes: Any,
) -> InpaintedImage:
    usual = {"crop_padding": None, "channel": "luminance", "is_inverted": False, "is_soft": False, "feather": 0}
    data = mask if isinstance(mask, bytes) else encoded(mask)
    sized = SizedImage(b"", height=size[1], width=size[0], fit=fit)
    return prepare_inpainting(source or drawn_image(1), sized, MaskOptions(data, **{**usual, **changes}), decode_image)


def test_mask_is_scaled_and_binarized_as_by_diffusers() -> None:
    expected = MASK_PROCESSOR.preprocess(MASK, height=SIZE[1], width=SIZE[0])[0, 0].numpy()
    assert np.array_equal(prepared().mask, expected)


@pytest.mark.parametrize("padding", [0, 8, 40])
def test_crop_to_mask_is_that_of_diffusers(padding: int) -> None:
    """Image, mask and the pasted result, as in `FluxInpaintPipeline` with `padding_mask_crop`."""
    images = VaeImageProcessor(vae_scale_factor=16)
    box = MASK_PROCESSOR.get_crop_region(HARD_MASK, *SIZE, pad=padding)
    cropping = {"height": SIZE[1], "width": SIZE[0], "resize_mode": "fill", "crops_coords": box}
    actual = prepared(HARD_MASK, crop_padding=padding)
    assert np.array_equal(actual.mask, MASK_PROCESSOR.preprocess(HARD_MASK, **cropping)[0, 0].numpy())
    expected = images.preprocess(drawn_image(1), **cropping)[0].movedim(0, -1).numpy()
    assert np.array_equal(np.asarray(actual.image), np.rint((expected + 1) * 127.5))
    generated = drawn_image(5, *SIZE)
    overlaid = images.apply_overlay(HARD_MASK, drawn_image(1), generated, box)
    assert np.array_equal(paste(np.asarray(generated), actual.canvas), np.asarray(overlaid))


def test_pixels_outside_mask_are_kept() -> None:
    actual = prepared(feather=4)
    noise = np.random.default_rng(1).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    pasted = paste(noise, actual.canvas)
    outside = actual.mask == 0
    assert np.array_equal(pasted[outside], np.asarray(actual.image)[outside])
    assert not np.array_equal(pasted, np.asarray(actual.image))


def test_feathering_lowers_weights_only_near_edge_of_mask() -> None:
    hard, feathered = prepared().canvas.weights, prepared(feather=4).canvas.weights
    assert set(np.unique(hard)) == {0, 255}
    assert np.array_equal(feathered > 0, hard > 0)
    assert feathered[22, 32] == 255
    assert len(np.unique(feathered)) > 4


def test_inverted_mask_selects_the_rest() -> None:
    assert np.array_equal(prepared(HARD_MASK, is_inverted=True).mask, prepared(ImageOps.invert(HARD_MASK)).mask)


def test_soft_mask_keeps_grey_values() -> None:
    values = np.unique(prepared(is_soft=True).mask)
    assert len(values) > 10
    assert (values.min(), values.max()) == (0, 1)


def test_alpha_channel_selects_transparent_pixels() -> None:
    transparent = drawn_image(3).convert("RGBA")
    transparent.putalpha(ImageOps.invert(HARD_MASK))
    assert np.array_equal(prepared(transparent, channel="alpha").mask, prepared(HARD_MASK).mask)


def test_border_of_contained_image_is_generated() -> None:
    tall = prepared(size=(32, 64), fit="contain")
    assert (np.asarray(tall.image)[:8] == 255).all()
    assert (tall.mask[:8] == 1).all()
    assert (tall.mask[32, 0], tall.mask[30, 16]) == (0, 1)


def test_each_latent_has_the_first_pixel_of_its_cell() -> None:
    mask = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert mask_of_latents(mask, 2).tolist() == [[0, 2], [8, 10]]


@pytest.mark.parametrize(
    ("mask", "changes", "words"),
    [
        (MASK.resize((40, 30)), {}, "MASK_IMAGE has 40x30 pixels, expected 80x60 as SOURCE_IMAGE"),
        (Image.new("L", (80, 60), 0), {}, "MASK_IMAGE selects no pixel"),
        (Image.new("L", (80, 60), 127), {}, "MASK_IMAGE selects no pixel"),
        (Image.new("L", (80, 60), 255), {"is_inverted": True}, "MASK_IMAGE selects no pixel"),
        (MASK, {"channel": "alpha"}, "MASK_IMAGE selects no pixel"),
        (b"junk", {}, r"MASK_IMAGE\[0\]: not an image"),
    ],
    ids=["size", "black", "dark", "inverted white", "opaque", "junk"],
)
def test_rejects_mask(mask: Image.Image | bytes, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        prepared(mask, **changes)


def test_rejects_crop_of_image_above_the_largest_side() -> None:
    source = Image.new("RGB", (4100, 16))
    with pytest.raises(InvalidRequest, match="SOURCE_IMAGE has 4100x16 pixels, with PADDING_MASK_CROP"):
        prepared(Image.new("L", source.size, 255), source, crop_padding=8)


def test_paste_scales_generated_image_to_its_box() -> None:
    canvas = Canvas(np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 255, np.uint8), (4, 6, 14, 16))
    pasted = paste(np.full((64, 64, 3), 200, np.uint8), canvas)
    assert (pasted[6:16, 4:14] == 200).all()
    assert int((pasted > 0).sum()) == 10 * 10 * 3
