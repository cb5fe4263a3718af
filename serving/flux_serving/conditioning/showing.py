"""Decodes the images and masks of a request and frames them for the vision tower, one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from flux_contract.errors import InvalidRequest
from flux_contract.limits import MAX_IMAGE_PIXELS
from flux_contract.parameters import IMAGE, IMAGE_MASK
from flux_serving.conditioning.framing import Patches, View, views
from flux_serving.conditioning.image_control import ImageControl
from flux_serving.images.image_decoding import Decode, decode_named


@dataclass(frozen=True)
class ConditionImage:
    """One input image. encoded, mask: encoded image files. mask: None or empty for no mask."""

    encoded: bytes
    mask: bytes | None
    control: ImageControl


def show(images: Sequence[ConditionImage], patches: Patches, decode: Decode) -> list[list[View]]:
    """Returns the views of each image.

    Raises InvalidRequest: a file is not an image, the images have too many pixels in total, or a mask does not fit its
    image.
    """
    framed: list[list[View]] = []
    pixels_left = MAX_IMAGE_PIXELS
    mask: Image.Image | None = None
    for index, image in enumerate(images):
        decoded = decode_named(decode, IMAGE, index, image.encoded, pixels_left)
        size = decoded.width * decoded.height
        pixels_left -= size
        if not image.mask:
            mask = None
        elif not index or image.mask is not images[index - 1].mask:  # decode a mask for all images only once
            # Transparent pixels count as black.
            mask = decode_named(decode, IMAGE_MASK, index, image.mask, size, behind="black").convert("L")
        used = ImageOps.invert(mask) if mask is not None and image.control.is_mask_inverted else mask
        try:
            framed.append(views(decoded, image.control.fit, patches, used, image.control.is_cropped))
        except InvalidRequest as error:
            raise InvalidRequest(f"{IMAGE.name}[{index}]: {error}") from None
    return framed
