"""Formats of request fields: null, base64, data URLs, lists in forms, and text for numbers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from openai.types import ImagesResponse
from PIL import Image

from asking import gateway
from flux_client.fake import AsyncFakeTransport, FakeTransport
from flux_contract import limits
from flux_contract.models import FLUX_STREAM
from flux_gateway.genserve.schema import GenerateRequest
from flux_gateway.image_fields import decode_image
from flux_gateway.jobs.schema import JobRequest
from flux_gateway.openai_images.schema import EditsRequest, GenerationsRequest, VariationsRequest
from flux_gateway.request_body import RequestBody
from images import encoded

SCHEMAS: tuple[type[RequestBody], ...] = (
    GenerateRequest,
    JobRequest,
    GenerationsRequest,
    EditsRequest,
    VariationsRequest,
)


def image(colour: str = "red") -> bytes:
    return encoded(Image.new("RGB", (32, 32), colour))


RED, GREEN, BLUE = image("red"), image("green"), image("blue")
#: A PNG whose base64 has padding and both characters that differ in url-safe base64. Decoders ignore bytes after a
#: PNG's end.
AWKWARD = RED + b"\0" * (-len(RED) % 3) + b"\xfb\xff\xfe\0"


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{in_base64(data)}"


class Service:
    """One gateway for all tests of this file, with a fake Triton server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: httpx.AsyncClient, fake: FakeTransport) -> None:
        self._loop = loop
        self._caller = caller
        self._fake = fake

    def ask(self, path: str, **how: Any) -> tuple[httpx.Response, dict[str, Any]]:
        """Returns the response, and the tensors sent to Triton, by name."""
        self._fake.sent.clear()
        response = self._loop.run_until_complete(self._caller.post(path, **how))
        sent = [each.request for each in self._fake.sent if each.request.model == FLUX_STREAM.name]
        return response, {name: value.tolist() for name, value in sent[-1].inputs.items()} if sent else {}

    def sent(self, path: str, **how: Any) -> dict[str, Any]:
        response, tensors = self.ask(path, **how)
        assert response.status_code in (200, 202), response.text
        return tensors

    def refused(self, path: str, **how: Any) -> tuple[str, str | None]:
        """Returns the message of a 422 error, and the field that it names."""
        response, tensors = self.ask(path, **how)
        assert (response.status_code, tensors) == (422, {}), response.text
        error = response.json()["error"]
        return (error, None) if isinstance(error, str) else (error["message"], error["param"])


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    loop = asyncio.new_event_loop()
    transport = AsyncFakeTransport()
    context = gateway(transport)
    yield Service(loop, loop.run_until_complete(context.__aenter__()), transport.fake)
    loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()


# null


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/generate", {"prompt": "a"}),
        ("/generate", {"mode": "redux", "input_image": in_base64(RED)}),
        ("/generate", {"mode": "img2img", "input_image": in_base64(RED)}),
        ("/generate", {"mode": "controlnet", "input_image": in_base64(RED)}),
        ("/v1/jobs", {"prompt": "a"}),
        ("/v1/images/generations", {"prompt": "a", "seed": 1}),
        ("/v1/images/edits", {"prompt": "a", "image": in_base64(RED), "seed": 1}),
        ("/v1/images/variations", {"image": in_base64(RED), "seed": 1}),
    ],
)
def test_null_selects_the_default_of_every_field(service: Service, path: str, given: dict[str, Any]) -> None:
    fields = {name for schema in SCHEMAS for name in schema.model_fields}
    aliases = {"guidance_scale", "image", "quality", "unknown"}
    nulls = dict.fromkeys(fields | aliases)
    assert service.sent(path, json={**nulls, **given}) == service.sent(path, json=given)


def test_null_selects_the_default_of_an_adapter_field(service: Service) -> None:
    loras = [{"name": "a", "weight": None, "unknown": None}]
    assert service.sent("/generate", json={"prompt": "a", "loras": loras})["LORA_SCALE"] == [[1.0]]
    assert service.sent("/generate/upload", data={"prompt": "a", "loras": json.dumps(loras)})["LORA_SCALE"] == [[1.0]]
    assert "LORA" not in service.sent("/generate/upload", data={"prompt": "a", "loras": "null"})


def test_an_alias_replaces_null(service: Service) -> None:
    assert service.sent("/generate", json={"prompt": "a", "cfg": None, "guidance_scale": 2})["GUIDANCE_SCALE"] == [
        [2.0]
    ]
    given = {"mode": "redux", "input_image": None, "image": in_base64(RED)}
    assert service.sent("/generate", json=given)["IMAGE"] == [[RED]]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_schema_allows_null(schema: type[RequestBody]) -> None:
    described = schema.model_json_schema()
    for name, field in described["properties"].items():
        is_nullable = any(each.get("type") == "null" for each in field.get("anyOf", ()))
        assert is_nullable is (name not in described.get("required", ())), (name, field)


def test_a_null_required_field_is_named(service: Service) -> None:
    assert service.refused("/v1/images/generations", json={"prompt": None})[1] == "prompt"
    assert service.refused("/v1/images/edits", json={"prompt": "a", "image": None})[1] == "image"
    assert service.refused("/v1/images/variations", json={})[1] == "image"


# base64 and data URLs


def spellings() -> dict[str, str]:
    plain = in_base64(AWKWARD)
    url_safe = base64.urlsafe_b64encode(AWKWARD).decode()
    assert ("+" in plain, "/" in plain, plain[-1]) == (True, True, "=")
    return {
        "plain": plain,
        "unpadded": plain.rstrip("="),
        "url-safe": url_safe,
        "url-safe, unpadded": url_safe.rstrip("="),
        "in lines": "\r\n".join(plain[start : start + 76] for start in range(0, len(plain), 76)) + "\r\n",
        "with spaces": " ".join(plain),
        "data URL": data_url(AWKWARD),
        "data URL with a parameter": f"data:image/png;name=a.png;base64,{plain}",
        "data URL in capitals": f"DATA:IMAGE/PNG;BASE64,{plain}",
        "data URL, unpadded, url-safe": f"data:image/png;base64,{url_safe.rstrip('=')}",
        "data URL, percent-encoded": f"data:image/png;base64,{plain}".replace("+", "%2B").replace("=", "%3d"),
        "data URL after a blank": f" \n{data_url(AWKWARD)}",
    }


@pytest.mark.parametrize("spelling", spellings())
def test_all_spellings_of_base64_decode_to_the_same_image(service: Service, spelling: str) -> None:
    text = spellings()[spelling]
    assert service.sent("/generate", json={"mode": "redux", "input_image": text})["IMAGE"] == [[AWKWARD]]
    assert service.sent("/generate/upload", data={"mode": "redux", "input_image": text})["IMAGE"] == [[AWKWARD]]
    assert service.sent("/v1/images/variations", json={"image": [text]})["IMAGE"] == [[AWKWARD]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://example.com/a.png", "does not fetch"),
        ("HTTP://example.com/a.png", "does not fetch"),
        ("file:///etc/passwd", "base64"),
        ("/etc/passwd", "base64"),
        ("image", "base64"),
        ("a.png", "base64"),
        (data_url(RED, "text/html"), "text/html"),
        (data_url(RED, "application/pdf"), "application/pdf"),
        (data_url(RED, "video/mp4"), "video/mp4"),
        (f"data:;base64,{in_base64(RED)}", "image/"),
        (f"data:,{in_base64(RED)}", "image/"),
        ("data:image/png,abc", ";base64"),
        ("data:image/svg+xml;utf8,<svg/>", ";base64"),
        (f"data:image/png;base64,{in_base64(RED)}====A", "base64"),
        (in_base64(RED) + "é", "base64"),
        (in_base64(RED)[:-4] + "=AAA", "base64"),
    ],
)
def test_rejects_text_that_is_not_an_image_with_a_reason(service: Service, text: str, words: str) -> None:
    for path, body, name in (
        ("/generate", {"mode": "redux", "input_image": text}, "input_image"),
        ("/v1/images/variations", {"image": text}, "image.0"),
    ):
        error, _ = service.refused(path, json=body)
        assert error.startswith(f"{name}: ")
        assert words in error


def test_empty_text_is_no_image(service: Service) -> None:
    for text in ("", " ", "data:image/png;base64,"):
        assert "input_image" in service.refused("/generate", json={"mode": "redux", "input_image": text})[0]
        assert service.refused("/v1/images/variations", json={"image": text})[1] == "image.0"
    body = {"mode": "img2img", "input_image": in_base64(RED), "mask_image": "", "control_image": ""}
    assert service.sent("/generate", json=body)["IMAGE"] == [[RED]]


@pytest.mark.parametrize(
    "text", [" A" * 2_000_000, "A" * 4_000_000, "=" * 4_000_000, "%2B" * 1_300_000, " " * 4_000_000]
)
def test_decoding_base64_uses_linear_memory_and_time(text: str) -> None:
    tracemalloc.start()
    started = time.monotonic()
    try:
        decode_image(text)
    except ValueError:
        pass
    finally:
        seconds = time.monotonic() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 5 * len(text)
    assert seconds < 5


def test_an_image_above_the_limit_is_rejected_before_it_is_decoded() -> None:
    text = "A" * (limits.MAX_IMAGE_BYTES * 4 // 3 + 8)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"at most {limits.MAX_IMAGE_BYTES}"):
        decode_image(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * len(text)


# Several images


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    return {"files": [(name, ("a.png", data, "image/png")) for name, data in parts]}


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("image", "image[]"), [RED, GREEN]),
        (("image[]", "image"), [RED, GREEN]),
        (("image[]", "image[]"), [RED, GREEN]),
        (("image", "image"), [RED, GREEN]),
        (("image", "image[]", "image"), [RED, GREEN, BLUE]),
        (("image[]", "image", "image[]"), [RED, GREEN, BLUE]),
        (("image[0]", "image[1]", "image[2]"), [RED, GREEN, BLUE]),
        (("image[2]", "image[0]", "image[1]"), [GREEN, BLUE, RED]),
        (("image[1]", "image", "image[0]"), [GREEN, BLUE, RED]),
        (("images", "images[]"), [RED, GREEN]),
        (("image[]",), [RED]),
        (("image[0]",), [RED]),
    ],
)
def test_a_form_accepts_all_common_list_notations(service: Service, names: Sequence[str], order: list[bytes]) -> None:
    how = form(*zip(names, (RED, GREEN, BLUE), strict=False))
    assert service.sent("/v1/images/variations", **how)["IMAGE"] == [order]
    assert service.sent("/v1/images/edits", data={"prompt": "a"}, **how)["IMAGE"] == [order]


def test_a_form_may_mix_files_and_base64(service: Service) -> None:
    how = {"data": {"image": in_base64(GREEN)}, **form(("image[]", RED))}
    assert sorted(service.sent("/v1/images/variations", **how)["IMAGE"][0]) == sorted([RED, GREEN])


def test_the_image_limit_counts_all_field_names(service: Service) -> None:
    how = form(*(("image", RED) for _ in range(5)), *((f"image[{i}]", RED) for i in range(4)))
    error, param = service.refused("/v1/images/variations", **how)
    assert (param, "9 images, expected 1..8" in error) == ("image", True)


def test_genserve_rejects_several_images(service: Service) -> None:
    for name in ("input_image", "image", "input_image[]", "image[0]"):
        assert service.sent("/generate/upload", data={"mode": "redux"}, **form((name, RED)))["IMAGE"] == [[RED]]
    for names in (
        ("input_image", "input_image"),
        ("input_image[]", "input_image[]"),
        ("input_image[0]", "input_image"),
    ):
        error, _ = service.refused("/generate/upload", data={"mode": "redux"}, **form(*((name, RED) for name in names)))
        assert error.startswith("input_image: 2 images, expected one")
        assert "/v1/images/variations" in error
    error, _ = service.refused("/generate", json={"mode": "redux", "input_image": [in_base64(RED), in_base64(GREEN)]})
    assert error.startswith("input_image: 2 images, expected one")
    assert service.sent("/generate", json={"mode": "redux", "input_image": [in_base64(RED)]})["IMAGE"] == [[RED]]


# OpenAI's JSON form of an edit


def test_an_edit_in_json_accepts_data_urls(service: Service) -> None:
    images = [{"image_url": data_url(RED)}, {"image_url": data_url(GREEN), "file_id": None}]
    body: dict[str, Any] = {"prompt": "heart", "images": images, "mask": None, "n": None}
    tensors = service.sent("/v1/images/edits", json=body)
    assert (tensors["IMAGE"], tensors["IMAGE_STRENGTH"]) == ([[RED, GREEN]], [[0.0, 1.0]])
    assert service.sent("/v1/images/variations", json={"images": images})["IMAGE"] == [[RED, GREEN]]
    both = {"prompt": "heart", "images": images[1:], "image": in_base64(RED)}
    assert service.sent("/v1/images/edits", json=both)["IMAGE"] == [[RED, GREEN]]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"image_url": "https://example.com/a.png"}, "does not fetch"),
        ({"file_id": "file-abc"}, "file_id"),
        ({"image_url": data_url(RED), "file_id": "file-abc"}, "file_id"),
        ({"image_url": data_url(RED, "text/plain")}, "text/plain"),
        ({}, "image_url"),
        ({"image_url": None}, "image_url"),
        (None, "image_url"),
        ([], "image_url"),
        (7, "image_url"),
    ],
)
def test_rejects_an_unavailable_image_of_an_edit_with_a_reason(service: Service, image: object, words: str) -> None:
    error, param = service.refused("/v1/images/edits", json={"prompt": "heart", "images": [image]})
    assert (param, words in error) == ("images.0", True), error


def test_edit_with_markup_is_rejected(service: Service) -> None:
    for markup in ({"image_url": data_url(RED)}, {"file_id": "a"}, data_url(RED)):
        body = {"prompt": "a", "image": in_base64(RED), "markup": markup}
        response, _ = service.ask("/v1/images/edits", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "markup")


@pytest.mark.parametrize("mask", [{"image_url": data_url(GREEN)}, data_url(GREEN), in_base64(GREEN)])
def test_edit_with_mask_is_inpainting(service: Service, mask: object) -> None:
    body = {"prompt": "a", "images": [in_base64(RED), in_base64(BLUE)], "mask": mask}
    sent = service.sent("/v1/images/edits", json=body)
    assert sent["MODE"] == [[b"inpaint"]]
    assert (sent["SOURCE_IMAGE"], sent["MASK_IMAGE"], sent["IMAGE"]) == ([[RED]], [[GREEN]], [[BLUE]])
    assert (sent["MASK_CHANNEL"], sent["STRENGTH"]) == ([[b"alpha"]], [[1.0]])


def test_edit_with_mask_keeps_the_given_strength(service: Service) -> None:
    body = {"prompt": "a", "image": in_base64(RED), "mask": in_base64(GREEN), "strength": 0.4}
    assert service.sent("/v1/images/edits", json=body)["STRENGTH"] == [[pytest.approx(0.4)]]


def test_mask_that_is_a_file_id_is_rejected(service: Service) -> None:
    body = {"prompt": "a", "image": in_base64(RED), "mask": {"file_id": "a"}}
    assert service.refused("/v1/images/edits", json=body)[1].startswith("mask")


def test_the_openai_package_sends_edits_as_forms_and_as_json() -> None:
    transport = AsyncFakeTransport()

    async def ask() -> None:
        async with gateway(transport) as http:
            client = openai.AsyncOpenAI(
                api_key="any", base_url=str(http.base_url.join("/v1")), http_client=http, max_retries=0
            )
            await client.images.edit(image=RED, prompt="a")
            await client.images.edit(image=[RED, GREEN], prompt="a")
            await client.images.edit(image=io.BytesIO(RED), prompt="a", size=None, model=None)
            body: dict[str, Any] = {"prompt": "a", "images": [{"image_url": data_url(each)} for each in (RED, GREEN)]}
            answer = await client.post("/images/edits", body=body, cast_to=ImagesResponse)
            assert len(answer.data or []) == 1
            body["images"] = [{"image_url": "https://example.com/a.png"}]
            with pytest.raises(openai.UnprocessableEntityError, match="does not fetch") as caught:
                await client.post("/images/edits", body=body, cast_to=ImagesResponse)
            assert caught.value.param == "images.0"
            await client.images.generate(prompt="a", size=None, model=None, n=None, stream=None, quality=None)

    asyncio.run(ask())
    images = [each.request.inputs["IMAGE"].tolist() for each in transport.fake.sent[:4]]
    assert images == [[[RED]], [[RED, GREEN]], [[RED]], [[RED, GREEN]]]


# Text for numbers and choices


def test_a_form_accepts_text_for_numbers_and_switches(service: Service) -> None:
    form = {"prompt": "a", "num_inference_steps": "20.0", "seed": " 7 ", "cfg": "3", "height": "64.0", "width": "64"}
    tensors = service.sent("/generate/upload", data=form)
    assert [tensors[name] for name in ("NUM_INFERENCE_STEPS", "SEED", "HEIGHT")] == [[[20]], [[7]], [[64]]]
    assert service.sent("/v1/jobs", data={**form, "previews": "0"}).keys() >= tensors.keys() - {"PREVIEW_STEPS"}
    for text in ("true", "True", "1", "on"):
        response, _ = service.ask("/v1/images/generations", data={"prompt": "a", "stream": text})
        assert response.headers["content-type"].startswith("text/event-stream"), text


@pytest.mark.parametrize(
    ("path", "wrong", "field"),
    [
        ("/generate", {"mode": "inpaint"}, "mode"),
        ("/generate", {"mode": "controlnet", "input_image": in_base64(RED), "control_kind": "depth"}, "control_kind"),
        ("/generate", {"num_inference_steps": 20.5}, "num_inference_steps"),
        ("/generate", {"loras": [{"weight": 1}]}, "loras.0.name"),
        ("/generate", {"loras": [None]}, "loras.0"),
        ("/generate", {"loras": "x" * 100_000}, "loras"),
        ("/v1/jobs", {"output_format": "gif"}, "output_format"),
        ("/v1/images/generations", {"output_format": "gif"}, "output_format"),
        ("/v1/images/generations", {"response_format": "png"}, "response_format"),
        ("/v1/images/generations", {"size": "7x7"}, "size"),
        ("/v1/images/generations", {"size": "1024"}, "size"),
        ("/v1/images/generations", {"size": [64, 64]}, "size"),
        ("/v1/images/generations", {"n": 0}, "n"),
        ("/v1/images/generations", {"stream": True, "response_format": "url"}, "response_format"),
    ],
)
def test_an_invalid_value_is_reported_with_its_field(
    service: Service, path: str, wrong: dict[str, Any], field: str
) -> None:
    error, param = service.refused(path, json={"prompt": "a", **wrong})
    assert error.startswith(f"{field}: ")
    assert param in (None, field)
