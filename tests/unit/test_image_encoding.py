"""Encoded files that contain their recipe and the mark of AI-generated media."""

from __future__ import annotations

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from flux_client import ImageResult
from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_serving.images.image_decoding import decode_image
from flux_serving.images.image_encoding import (
    MAX_RECIPE_BYTES,
    OutputFormat,
    encode_image,
    parse_format,
)

RAMP = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([2, 1, 1])
RGB = RAMP.astype(np.uint8)
RECIPE = {"seed": 42, "steps": 20, "guidance": 2.5, "width": 64, "height": 48, "model": "flux_base"}
FORMATS = [OutputFormat(name, as_base64=False) for name in limits.FORMATS]

every_format = pytest.mark.parametrize("output_format", FORMATS, ids=limits.FORMATS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("png", OutputFormat("png", False)),
        ("JPEG", OutputFormat("jpeg", False)),
        ("jpg", OutputFormat("jpeg", False)),
        (" WebP;Base64 ", OutputFormat("webp", True)),
        ("jpg;base64", OutputFormat("jpeg", True)),
    ],
)
def test_format_is_read_in_any_case(text: str, expected: OutputFormat) -> None:
    assert parse_format(text) == expected


@pytest.mark.parametrize("text", ["tga", "", ";base64", "png;", "png;base64;base64", "image/png"])
def test_error_for_unknown_format_lists_the_supported_ones(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_format(text)
    assert str(caught.value) == f"OUTPUT_FORMAT={text!r}, expected png, jpeg or webp, with or without ;base64"


@every_format
def test_file_has_the_requested_format_and_size(output_format: OutputFormat) -> None:
    with Image.open(io.BytesIO(encode_image(RGB, None, output_format))) as image:
        assert (image.format, image.size, image.mode) == (output_format.name.upper(), (64, 48), "RGB")


@every_format
def test_pixels_are_preserved(output_format: OutputFormat) -> None:
    decoded = np.asarray(decode_image(encode_image(RGB, json.dumps(RECIPE), output_format)))
    difference = np.abs(decoded.astype(int) - RGB)
    assert difference.max() == 0 if output_format.name == "png" else difference.mean() < 3


def test_jpeg_does_not_subsample_colours() -> None:
    with Image.open(io.BytesIO(encode_image(RGB, None, parse_format("jpeg")))) as image:
        assert get_sampling(image) == 0  # 4:4:4


@every_format
def test_recipe_can_be_read_back(output_format: OutputFormat) -> None:
    assert ImageResult(encode_image(RGB, json.dumps(RECIPE), output_format), seed=1).recipe == RECIPE


@every_format
def test_non_ascii_characters_in_the_recipe_are_preserved(output_format: OutputFormat) -> None:
    recipe = {"model": 'грин 花 🌸 "quoted" \\ \u0000'}
    encoded = encode_image(RGB, json.dumps(recipe, ensure_ascii=False), output_format)
    assert ImageResult(encoded, seed=1).recipe == recipe


@every_format
def test_file_without_a_recipe_has_none(output_format: OutputFormat) -> None:
    assert ImageResult(encode_image(RGB, None, output_format), seed=1).recipe is None


@every_format
def test_file_is_marked_as_ai_generated(output_format: OutputFormat) -> None:
    with Image.open(io.BytesIO(encode_image(RGB, None, output_format))) as image:
        packet = image.info["xmp"]
    [description] = ElementTree.fromstring(packet.decode().lstrip("\ufeff")).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    source = description.findtext("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert source == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert description.findtext("{http://ns.adobe.com/xap/1.0/}CreatorTool") == "flux-triton"


@every_format
def test_same_image_gives_the_same_bytes(output_format: OutputFormat) -> None:
    recipe = json.dumps(RECIPE)
    assert encode_image(RGB, recipe, output_format) == encode_image(RGB.copy(), recipe, output_format)


@every_format
def test_base64_encodes_the_same_file(output_format: OutputFormat) -> None:
    text = encode_image(RGB, None, OutputFormat(output_format.name, as_base64=True))
    assert base64.b64decode(text, validate=True) == encode_image(RGB, None, output_format)


@every_format
def test_non_contiguous_array_is_encoded_correctly(output_format: OutputFormat) -> None:
    mirrored = RGB[:, ::-1]
    assert encode_image(mirrored, None, output_format) == encode_image(mirrored.copy(), None, output_format)


@pytest.mark.parametrize(
    "pixels",
    [RGB.astype(np.float32), RGB[..., 0], RGB[..., :2], RGB[:0], np.zeros((1, 16384, 3), np.uint8)],
    ids=["float", "no channels", "two channels", "empty", "too wide"],
)
def test_rejects_pixels_of_other_type_or_shape(pixels: np.ndarray) -> None:
    with pytest.raises(InvalidRequest):
        encode_image(pixels, None, FORMATS[0])


@pytest.mark.parametrize(
    "recipe", ["", "seed=42", "[1]", "[" * 100_000, json.dumps({"model": "x" * MAX_RECIPE_BYTES})], ids=range(5)
)
@every_format
def test_rejects_recipe_that_is_not_a_small_json_object(recipe: str, output_format: OutputFormat) -> None:
    with pytest.raises(InvalidRequest, match="recipe "):
        encode_image(RGB, recipe, output_format)


@every_format
def test_longest_recipe_fits(output_format: OutputFormat) -> None:
    recipe = {"model": "x" * (MAX_RECIPE_BYTES - len('{"model": ""}'))}
    assert ImageResult(encode_image(RGB, json.dumps(recipe), output_format), seed=1).recipe == recipe


def test_unrelated_image_description_is_not_a_recipe() -> None:
    exif = Image.Exif()
    exif[0x010E] = "Our holiday"
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", exif=exif)
    assert ImageResult(file.getvalue(), seed=1).recipe is None
