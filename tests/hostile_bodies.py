"""Request bodies that try to exhaust a server's memory and time."""

from __future__ import annotations

import base64

from PIL import Image

from images import encoded

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
IMAGE = base64.b64encode(encoded(Image.new("RGB", (32, 32), "red")))


def multipart(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """parts: each as further text of Content-Disposition, and its content."""
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; " + more.encode() + b"\r\n\r\n" + content + b"\r\n"
        for more, content in parts
    )
    return body + b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}


def hostile_bodies(size: int) -> dict[str, tuple[bytes, dict[str, str], set[int]]]:
    """Returns bodies of about this size, each with its headers and the acceptable statuses."""
    half = size // 2
    field, field_headers = multipart(('name="loras"', b"[" + b"{}," * (size // 3) + b"{}]"))
    emoji, _ = multipart(('name="prompt"', "😀".encode() + b"a" * size))
    many, _ = multipart(*[('name="a"; filename="b"', b"")] * (size // 80))
    lines, _ = multipart(('name="input_image"; filename="b"', b"\r\n--" * (size // 4)))
    code, _ = multipart(('name="prompt"', b"a" * size))
    punycode = {"content-type": "multipart/form-data; boundary=b; charset=punycode"}
    return {
        "empty objects": (b'{"prompt":"x","zz":[' + b"{}," * (size // 3) + b"{}]}", JSON, {400}),
        "keys": (b"{" + b",".join(b'"%x":1' % n for n in range(size // 10)) + b"}", JSON, {400}),
        "depth": (b'{"zz":' + b"[" * size + b"]" * size, JSON, {400}),
        "some depth": (b'{"zz":' + b"[" * 9000 + b"]" * 9000 + b"}", JSON, {400}),
        "base64 with spaces": (b'{"mode":"redux","input_image":"' + b"A " * half + b'"}', JSON, {400, 422}),
        "wide text": ('{"prompt":"😀'.encode() + b"a" * size + b'"}', JSON, {422}),
        "escapes": (b'{"prompt":"' + b"\\u0041" * (size // 6) + b'"}', JSON, {422}),
        "digits": (b'{"seed":"' + b"1" * size + b'"}', JSON, {422}),
        "number": (b'{"cfg":' + b"1" * size + b"}", JSON, {400, 422}),
        "utf-32": (('{"prompt":"' + "a" * (size // 4) + '"}').encode("utf-32"), JSON, {400, 422}),
        "unknown text": (b'{"zz":"' + b"a" * size + b'","seed":"x"}', JSON, {422}),
        "controlnet_type": (
            b'{"mode":"controlnet","control_image":"%s","controlnet_type":"%s"}' % (IMAGE, b"a" * size),
            JSON,
            {400, 422},
        ),
        "json in a field": (field, field_headers, {422}),
        "wide field": (emoji, field_headers, {422}),
        "parts": (many, field_headers, {400}),
        "boundaries": (lines, field_headers, {400, 422}),
        "header": (b"--b\r\nContent-Disposition: " + b"a" * size, field_headers, {400}),
        "charset": (code, punycode, {422}),
        "percent": (b"prompt=" + b"%41" * (size // 3), FORM, {400, 422}),
        "fields": (b"a=1&" * (size // 4), FORM, {400}),
    }
