"""OpenAI's images API, called by the `openai` package, with a fake Triton server."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import openai
import pytest
from PIL import Image

from flux_client import AsyncFluxClient, Overloaded, RetryPolicy
from flux_client.fake import AsyncFakeTransport
from flux_contract.errors import FluxError
from flux_gateway.app import make_app
from flux_gateway.settings import Settings
from images import encoded

T = TypeVar("T")


def asked(ask: Callable[[openai.AsyncOpenAI], Awaitable[T]], *errors: FluxError) -> tuple[T, dict[str, Any]]:
    """Returns the package's result, and the tensors sent to Triton, by name."""
    transport = AsyncFakeTransport(*errors)

    async def run() -> T:
        app = make_app(Settings(), AsyncFluxClient(transport=transport, retry=RetryPolicy(attempts=1)))
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            await asyncio.sleep(0.05)
            client = openai.AsyncOpenAI(api_key="any", base_url="http://localhost/v1", http_client=http, max_retries=0)
            return await ask(client)

    result = asyncio.run(run())
    sent = transport.fake.sent
    return result, {name: value.tolist() for name, value in sent[-1].request.inputs.items()} if sent else {}


def red_image(colour: str = "red") -> bytes:
    return encoded(Image.new("RGB", (32, 32), colour))


def size_of(b64_json: str | None) -> tuple[int, int]:
    assert b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(b64_json))).size


# OpenAI has removed its model for variations, but not the endpoint.
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_variations_are_redux() -> None:
    answer, sent = asked(lambda client: client.images.create_variation(image=red_image(), n=2, size="96x64"))
    assert [size_of(image.b64_json) for image in answer.data or []] == [(96, 64)] * 2
    assert "MODE" not in sent
    assert (sent["IMAGE"], sent["NUM_IMAGES"], sent["WIDTH"]) == ([[red_image()]], [[2]], [[96]])


def test_generations_are_text2img() -> None:
    answer, sent = asked(
        lambda client: client.images.generate(
            prompt="red apple", output_format="webp", extra_body={"seed": 7, "num_inference_steps": 4}
        )
    )
    assert (sent["MODE"], sent["PROMPT"], sent["SEED"]) == ([[b"text2img"]], [[b"red apple"]], [[7]])
    (image,) = answer.data or []
    assert image.model_extra == {"seed": 7}
    assert Image.open(io.BytesIO(base64.b64decode(image.b64_json or ""))).format == "WEBP"


@pytest.mark.parametrize(("fidelity", "first"), [("low", 0.0), ("high", 1.0)])
def test_edits_change_the_first_image_and_use_the_others_as_redux_images(fidelity: Any, first: float) -> None:
    _, sent = asked(
        lambda client: client.images.edit(
            image=[red_image("red"), red_image("blue")], prompt="heart", input_fidelity=fidelity
        )
    )
    assert sent["IMAGE"] == [[red_image("red"), red_image("blue")]]
    assert (sent["MODE"], sent["PROMPT"]) == ([[b"img2img"]], [[b"heart"]])
    assert sent["IMAGE_STRENGTH"] == [[first, 1.0]]
    assert "STRENGTH" not in sent, "the default is the server's"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_redux_parameters_are_one_value_for_all_images() -> None:
    body = {"image_strength": 0.5, "image_detail": 3, "prompt": "heart"}
    _, sent = asked(lambda client: client.images.create_variation(image=red_image(), extra_body=body))
    assert (sent["IMAGE_STRENGTH"], sent["IMAGE_DETAIL"], sent["PROMPT"]) == ([[0.5]], [[3]], [[b"heart"]])
    images = [red_image("red"), red_image("blue")]
    _, sent = asked(
        lambda client: client.images.edit(image=images, prompt="heart", input_fidelity="high", extra_body=body)
    )
    assert (sent["IMAGE_STRENGTH"], sent["IMAGE_DETAIL"]) == ([[0.5]], [[3]])


def test_a_stream_has_the_requested_partial_images_and_then_the_image() -> None:
    async def ask(client: openai.AsyncOpenAI) -> list[Any]:
        stream = await client.images.generate(
            prompt="red apple", stream=True, partial_images=2, extra_body={"num_inference_steps": 6}
        )
        return [event async for event in stream]

    events, _ = asked(ask)
    assert [event.type.partition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert size_of(events[-1].b64_json) == (64, 64)


def test_an_image_can_be_fetched_by_its_url() -> None:
    async def ask(client: openai.AsyncOpenAI) -> tuple[httpx.Response, httpx.Response]:
        answer = await client.images.generate(prompt="red apple", response_format="url")
        (image,) = answer.data or []
        http = client._client
        return await http.get(image.url or ""), await http.get("http://localhost/v1/images/files/other")

    (found, other), _ = asked(ask)
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(found.content)).size == (64, 64)
    assert (other.status_code, list(other.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"size": "7x7"}, "size"),
        ({"size": "big"}, "size"),
        ({"n": 100}, "n"),
        ({"stream": True, "response_format": "url"}, "response_format"),
    ],
)
def test_invalid_requests_have_openais_error_format(wrong: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        asked(lambda client: client.images.generate(**{"prompt": "a", **wrong}))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_edit_with_mask_is_inpainting() -> None:
    image, mask = red_image(), red_image("blue")
    _, sent = asked(lambda client: client.images.edit(image=image, mask=mask, prompt="a"))
    assert (sent["SOURCE_IMAGE"], sent["MASK_IMAGE"], sent["MASK_CHANNEL"]) == ([[image]], [[mask]], [[b"alpha"]])


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_full_server_is_503_also_for_a_stream(more: dict[str, Any]) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        asked(lambda client: client.images.generate(prompt="a", **more), *[Overloaded("full")])
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) > 0
