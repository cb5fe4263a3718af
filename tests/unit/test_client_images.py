from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flux_client import InvalidRequest
from flux_client.images import encode_images
from flux_contract import limits


def decoded(data):
    return Image.open(BytesIO(data))


def test_bytes_and_files_pass_unchanged(tmp_path):
    file = tmp_path / "cat.png"
    file.write_bytes(b"as it is")
    assert encode_images([b"first", bytearray(b"second"), file, str(file)]) == [
        b"first",
        b"second",
        b"as it is",
        b"as it is",
    ]


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (3, 5, 4)])
def test_uint8_pixels_become_the_same_png(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    [data] = encode_images(pixels)
    image = decoded(data)
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_pil_images_of_every_mode_become_png(mode):
    [data] = encode_images(Image.new(mode, (6, 4)))
    assert (decoded(data).format, decoded(data).size) == ("PNG", (6, 4))


def test_a_rotated_photo_is_sent_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as photo:
        [data] = encode_images(photo)
    assert decoded(data).size == (4, 6)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4), object),
    ],
)
def test_rejects_arrays_that_are_not_images(pixels):
    with pytest.raises(InvalidRequest, match="is not an image, expected uint8"):
        encode_images(pixels)


@pytest.mark.parametrize("images", [7, None, [7], [[b"nested"]]])
def test_other_types_raise_type_error(images):
    with pytest.raises(TypeError, match="is not an image, expected a path"):
        encode_images(images)


@pytest.mark.parametrize("count", [0, limits.MAX_INPUT_IMAGES + 1])
def test_rejects_no_image_and_too_many(count):
    with pytest.raises(InvalidRequest, match=f"{count} images in one request, expected 1..8"):
        encode_images([b"x"] * count)


def test_rejects_empty_and_oversized_images(tmp_path):
    with pytest.raises(InvalidRequest, match="is empty"):
        encode_images(b"")
    with pytest.raises(InvalidRequest, match="expected at most"):
        encode_images(bytes(limits.MAX_IMAGE_BYTES + 1))
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidRequest, match=r"sparse\.png is too large"):
        encode_images(tmp_path / "sparse.png")


def test_rejects_a_device():
    with pytest.raises(InvalidRequest, match="/dev/zero is not a file or a pipe"):
        encode_images("/dev/zero")


@pytest.mark.parametrize("images", [BytesIO(b"a\nb\n"), {"a.png": 1}])
def test_rejects_open_files_and_mappings(images):
    with pytest.raises(TypeError, match="is not an image"):
        encode_images(images)


def test_a_missing_file_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        encode_images(tmp_path / "nowhere.png")
