"""Damaged and malicious image files, sent as every tensor and field that accepts an image."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib

from PIL import Image
from tritonclient.grpc import service_pb2

from hostile.cases import Answer, Hostile, Targets, by_grpc, by_http
from hostile.tensors import add_input, add_text
from images import drawn_image, encoded

_DRAWN = drawn_image(5, 48, 32)
#: Valid files of every format, including unusual variants.
FILES: dict[str, bytes] = {
    "png": encoded(_DRAWN),
    "palette png": encoded(_DRAWN.quantize(16), "PNG", transparency=3),
    "16-bit png": encoded(_DRAWN.convert("L").convert("I").point(lambda v: v * 257).convert("I;16")),
    "apng": encoded(_DRAWN, "PNG", save_all=True, append_images=[drawn_image(6, 48, 32)] * 3),
    "jpeg": encoded(_DRAWN, "JPEG"),
    "progressive jpeg": encoded(_DRAWN, "JPEG", progressive=True),
    "cmyk jpeg": encoded(_DRAWN.convert("CMYK"), "JPEG"),
    "webp": encoded(_DRAWN, "WEBP"),
    "lossless webp": encoded(_DRAWN, "WEBP", lossless=True),
    "animated webp": encoded(_DRAWN, "WEBP", save_all=True, append_images=[drawn_image(7, 48, 32)]),
    "gif": encoded(_DRAWN, "GIF"),
    "bmp": encoded(_DRAWN, "BMP"),
    "tiff": encoded(_DRAWN, "TIFF"),
    "lzw tiff": encoded(_DRAWN, "TIFF", compression="tiff_lzw"),
}


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _with_noise(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice((1, 7, 300))) + content[at:]


def _repeated(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:last] * rng.choice((1, 10, 200)) + content[last:]


def _with_extreme(content: bytes, rng: random.Random) -> bytes:
    """Replace a length, offset or size with an extreme value."""
    at = rng.randrange(min(len(content), 64))
    extreme = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)))
    return content[:at] + extreme + content[at + 4 :]


def _joined(content: bytes, rng: random.Random) -> bytes:
    other = rng.choice(list(FILES.values()))
    return content[: len(content) // 2] + other[len(other) // 2 :]


def _claims_size(content: bytes, rng: random.Random) -> bytes:
    """A PNG of a few bytes whose header claims the given size."""
    side = rng.choice((0, 1, 8193, 65535, 2**31 - 1, 2**32 - 1))
    header = struct.pack(">IIBBBBB", side, rng.choice((1, side)), 8, rng.choice((0, 2, 3, 4, 6, 7)), 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    chunks = (struct.pack(">I", len(body)) + n + body + struct.pack(">I", zlib.crc32(n + body)) for n, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _as_text(content: bytes, rng: random.Random) -> bytes:
    text = base64.b64encode(_flipped(content, rng))
    prefix = rng.choice((b"", b"data:image/png;base64,", b"data:text/html;base64,", b"data:;;;;,", b"data:image/png,"))
    return rng.choice((prefix + text, prefix + text[:-3], b" \n".join((prefix, text)), prefix + b"%" + text))


_BEGINNINGS = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"%PDF")


def _junk(content: bytes, rng: random.Random) -> bytes:
    magic = rng.choice(
        (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"%PDF")
    )
    return magic + rng.randbytes(rng.choice((0, 1, 100, 5000)))


CHANGES = (
    _flipped,
    _truncated,
    _with_noise,
    _repeated,
    _with_extreme,
    _joined,
    _claims_size,
    _as_text,
    _junk,
)

#: Models, each with the tensor that accepts the file.
_TENSORS = (
    ("flux_redux", "IMAGE"),
    ("flux_redux", "IMAGE_MASK"),
    ("flux_img2img", "IMAGE"),
    ("flux_inpaint", "SOURCE_IMAGE"),
    ("flux_inpaint", "MASK_IMAGE"),
    ("flux_canny", "CONTROL_IMAGE"),
)


def image_by_grpc(rng: random.Random) -> Hostile:
    content, how = _image(rng)
    model, tensor = rng.choice(_TENSORS)
    request = service_pb2.ModelInferRequest(model_name=model)
    add_input(request, "NUM_INFERENCE_STEPS", "INT32", [1, 1], struct.pack("<i", 1))
    add_input(request, "HEIGHT", "INT32", [1, 1], struct.pack("<i", 64))
    add_input(request, "WIDTH", "INT32", [1, 1], struct.pack("<i", 64))
    if tensor == "IMAGE_MASK":
        add_text(request, "IMAGE", FILES["png"])
    if model in ("flux_canny", "flux_inpaint"):
        add_text(request, "PROMPT", b"")
    if model == "flux_inpaint":
        add_text(request, "SOURCE_IMAGE" if tensor == "MASK_IMAGE" else "MASK_IMAGE", FILES["png"])
    add_text(request, tensor, content)
    expected = frozenset({"OK", "INVALID_ARGUMENT"})
    return Hostile("image over gRPC", f"{model} {tensor}: {how}", expected, lambda targets: by_grpc(targets, request))


def image_by_rest(rng: random.Random) -> Hostile:
    content, how = _image(rng)
    form = {"mode": "redux", "num_inference_steps": "1", "height": "64", "width": "64"}

    def send(targets: Targets) -> Answer:
        url = targets.gateway_url
        if way == "upload":
            return by_http(targets, "POST", f"{url}/generate/upload", data=form, files={"input_image": content})
        if way == "generate":
            body = {**form, "input_image": base64.b64encode(content).decode()}
            return by_http(targets, "POST", f"{url}/generate", json=body)
        data = {"num_inference_steps": "1", "size": "64x64"}
        return by_http(targets, "POST", f"{url}/v1/images/variations", data=data, files={"image": content})

    way = rng.choice(("upload", "generate", "variations"))
    return Hostile("image over REST", f"{way}: {how}", frozenset({"200", "400", "422"}), send)


def _image(rng: random.Random) -> tuple[bytes, str]:
    name = rng.choice(list(FILES))
    change = rng.choice(CHANGES)
    return change(FILES[name], rng), f"{name}, {change.__name__.strip('_')}"


def progressive_with_scans(scans: int, side: int = 8192) -> bytes:
    """A progressive JPEG that repeats its last scan: each repetition costs the decoder a pass over all coefficients."""
    content = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + content[-2:]


def image_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")
