"""Malformed JSON and multipart bodies, methods and paths, for the REST gateway."""

from __future__ import annotations

import json
import random
from typing import Any

from hostile.cases import Answer, Hostile, Targets, by_http
from hostile.images import FILES

#: HTTP statuses of client errors; 200 and 202 for bodies that happen to be valid.
_EXPECTED = frozenset({"200", "202", "400", "404", "405", "413", "415", "421", "422", "403", "429", "431"})
_POSTED = ("/generate", "/v1/images/generations", "/v1/images/edits", "/v1/jobs")
_FORMS = ("/generate/upload", "/v1/images/variations", "/v1/images/edits", "/v1/jobs")

_GOOD: dict[str, Any] = {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 1, "height": 64, "width": 64}
_NAMES = (
    *("mode", "model_id", "prompt", "num_inference_steps", "height", "width", "cfg", "seed", "strength", "priority"),
    *("input_image", "control_image", "mask_image", "loras", "controlnet_type", "controlnet_conditioning_scale"),
    *("n", "size", "model", "response_format", "output_format", "image", "images", "stream", "partial_images", "user"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**70, 1.5, 1e308, "", "x", "1", "NaN", "1e400", "\0", "ü", "a" * 5000, "/etc/passwd"),
    *(
        [],
        {},
        [None],
        [[]],
        {"name": "x"},
        [{"name": "greyscale", "weight": 9}],
        [{"name": "ü"}],
        "64x64",
        "0x0",
        "auto",
    ),
    *("http://127.0.0.1:1/x.png", "data:image/png;base64,AAAA", "data:,", "redux", "is stopping", "x (UNAVAILABLE)"),
)


def json_by_rest(rng: random.Random) -> Hostile:
    path = rng.choice(_POSTED)
    body: dict[str, Any] = dict(_GOOD) if not path.startswith("/v1/images") else {**_GOOD, "size": "64x64"}
    for name in rng.sample(_NAMES, rng.randrange(1, 4)):
        body[name] = rng.choice(_VALUES)
    # More than one step would only take time.
    if (
        isinstance(body.get("num_inference_steps"), (int, float, str))
        and str(body["num_inference_steps"]) not in "-101"
    ):
        body["num_inference_steps"] = 1
    text = rng.choice(_TEXT_CHANGES)(json.dumps(body).encode(), rng)

    def send(targets: Targets) -> Answer:
        headers = {"Content-Type": "application/json"}
        return by_http(targets, "POST", f"{targets.gateway_url}{path}", content=text, headers=headers)

    return Hostile("JSON over REST", f"{path} {text[:200]!r}", _EXPECTED, send)


def _as_it_is(text: bytes, rng: random.Random) -> bytes:
    return text


def _cut(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randrange(len(text))]


def _nested(text: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((10, 1000, 100_000))
    return text[:-1] + b', "zz": ' + b"[" * depth + b"]" * depth + b"}"


def _many(text: bytes, rng: random.Random) -> bytes:
    return text[:-1] + b', "zz": [' + b"{}," * rng.choice((10, 10_000, 300_000)) + b"{}]}"


def _not_utf8(text: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice((b"\xff", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf")) + text[at:]


def _odd_numbers(text: bytes, rng: random.Random) -> bytes:
    number = rng.choice((b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 5000, b"00"))
    return text[:-1] + b', "' + rng.choice((b"seed", b"strength", b"zz")) + b'": ' + number + b"}"


_TEXT_CHANGES = (_as_it_is, _as_it_is, _as_it_is, _cut, _nested, _many, _not_utf8, _odd_numbers)


_FILE_NAMES = ('; filename="x.png"', "", "; filename*=x")
_KINDS = ("multipart/form-data", "multipart/form-data", "application/x-www-form-urlencoded", "multipart/x")


def multipart_by_rest(rng: random.Random) -> Hostile:
    path = rng.choice(_FORMS)
    boundary = rng.choice(("b", "b" * 70, "--", "ü", ""))
    fields = {**{name: str(value) for name, value in _GOOD.items()}, rng.choice(_NAMES): str(rng.choice(_VALUES))}
    fields["num_inference_steps"] = "1"
    parts = [_part(name, value.encode()) for name, value in fields.items()]
    for _ in range(rng.choice((1, 1, 2, 120))):
        name = rng.choice(("image", "image[]", "image[0]", "input_image", "x", "mask"))
        parts.append(
            _part(name, rng.choice(list(FILES.values())), rng.choice(('; filename="x.png"', "", "; filename*=x")))
        )
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part for part in parts) + f"--{boundary}--\r\n".encode()
    change = rng.choice((_as_it_is, _as_it_is, _cut, _not_utf8, _without_headers, _with_long_header))
    body = change(body, rng)
    kind = rng.choice(
        ("multipart/form-data", "multipart/form-data", "application/x-www-form-urlencoded", "multipart/x")
    )
    kind += rng.choice((f"; boundary={boundary}", f"; boundary={boundary}", "", "; boundary=other"))

    def send(targets: Targets) -> Answer:
        headers = {b"Content-Type": kind.encode()}
        return by_http(targets, "POST", f"{targets.gateway_url}{path}", content=body, headers=headers)

    return Hostile("multipart over REST", f"{path} {kind}, {change.__name__.strip('_')}", _EXPECTED, send)


def _part(name: str, content: bytes, more: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def _without_headers(body: bytes, rng: random.Random) -> bytes:
    return body.replace(b"Content-Disposition: form-data; ", b"", rng.randrange(1, 4))


def _with_long_header(body: bytes, rng: random.Random) -> bytes:
    return body.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * rng.choice((100, 20_000)) + b"\r\n\r\n", 1)


_PATHS = (
    *("/", "/generate", "/health", "/models", "/status", "/loras", "/metrics", "/docs", "/v1/models", "/v1/jobs/x"),
    *("/v1/images/files/x", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/jobs/%00", "/v1/jobs/" + "x" * 3000),
)


def path_by_rest(rng: random.Random) -> Hostile:
    method = rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW", "X" * 50))
    path = rng.choice(
        (
            *(
                "/",
                "/generate",
                "/health",
                "/models",
                "/status",
                "/loras",
                "/metrics",
                "/docs",
                "/v1/models",
                "/v1/jobs/x",
            ),
            *(
                "/v1/images/files/x",
                "/../etc/passwd",
                "/%2e%2e/%2e%2e/etc/passwd",
                "/v1/jobs/%00",
                "/v1/jobs/" + "x" * 3000,
            ),
            f"/{rng.randrange(10**9)}",
        )
    )

    def send(targets: Targets) -> Answer:
        return by_http(targets, method, f"{targets.gateway_url}{path}")

    return Hostile("path over REST", f"{method} {path[:80]}", _EXPECTED | {"204", "401"}, send)
