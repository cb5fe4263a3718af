"""A request's encoded pictures and masks, to what the vision tower is shown of them. One picture at a time."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from flux_contract.errors import InvalidRequest
from flux_contract.limits import MAX_PICTURE_PIXELS
from flux_contract.parameters import IMAGE, IMAGE_MASK
from flux_serving.conditioning.framing import Patches, View, views
from flux_serving.conditioning.picture_control import PictureControl
from flux_serving.images.picture_decoding import Decode, decode_named


def show(
    pictures: Sequence[bytes],
    masks: Sequence[bytes | None],
    controls: Sequence[PictureControl],
    patches: Patches,
    decode: Decode,
) -> list[list[View]]:
    """The views of each picture. masks: of each picture, None or empty where it has none.

    Raises InvalidRequest: one is no picture, they have too many pixels together, or a mask does not fit its picture.
    """
    shown: list[list[View]] = []
    pixels_left = MAX_PICTURE_PIXELS
    mask: Image.Image | None = None
    for index, (encoded, encoded_mask, control) in enumerate(zip(pictures, masks, controls, strict=True)):
        picture = decode_named(decode, IMAGE, index, encoded, pixels_left)
        size = picture.width * picture.height
        pixels_left -= size
        if not encoded_mask:
            mask = None
        elif not index or encoded_mask is not masks[index - 1]:  # one mask for all is decoded once
            # What is transparent counts as little as what is black.
            mask = decode_named(decode, IMAGE_MASK, index, encoded_mask, size, behind="black").convert("L")
        try:
            shown.append(views(picture, control.fit, patches, mask, control.is_cropped))
        except InvalidRequest as error:
            raise InvalidRequest(f"{IMAGE.name}[{index}]: {error}") from None
    return shown
