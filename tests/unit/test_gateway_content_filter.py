"""The content filter: images that it withholds or cannot check are not sent."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import EntryPoint
from typing import Any

import httpx
import pytest
from PIL import Image

from asking import gateway
from flux_contract.errors import CannotStart
from flux_gateway import content_filter as room
from flux_gateway.content_filter import Check, ContentFilter, content_filter

TEXT = {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 4}


def ask(check: Check, path: str, **body: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with gateway(content_filter=ContentFilter(check, most_s=0.2)) as caller:
            return await caller.post(path, json={**TEXT, **body})

    return asyncio.run(asked())


def withhold(image: Image.Image) -> str:
    return "too red"


def fail(image: Image.Image) -> None:
    raise RuntimeError("secret")


def hang(image: Image.Image) -> None:
    time.sleep(0.5)


def test_an_accepted_image_is_checked_and_returned() -> None:
    seen: list[tuple[int, int]] = []
    assert ask(lambda image: seen.append(image.size), "/generate", height=64, width=96).json()["success"]
    assert seen == [(96, 64)]


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
def test_a_withheld_image_is_an_error_with_the_reason(path: str) -> None:
    response = ask(withhold, path)
    assert response.status_code == 400
    assert "too red" in response.text
    assert 'image_base64":"' not in response.text


def test_openai_clients_get_the_code_of_openai() -> None:
    assert ask(withhold, "/v1/images/generations").json()["error"]["code"] == "content_policy_violation"


@pytest.mark.parametrize("check", [fail, hang])
def test_a_filter_that_fails_or_hangs_withholds_the_image(check: Check) -> None:
    answer = ask(check, "/generate").json()
    assert (answer["success"], answer["image_base64"]) == (False, None)
    assert "secret" not in str(answer)
    assert ask(check, "/v1/images/generations").status_code == 500


def test_previews_are_checked() -> None:
    def small_only(image: Image.Image) -> str | None:
        return "a preview" if image.format == "JPEG" else None

    response = ask(small_only, "/v1/images/generations", stream=True, partial_images=2)
    assert "a preview" in response.text
    assert "b64_json" not in response.text
    assert ask(small_only, "/v1/images/generations", stream=True).status_code == 200


def test_a_filter_is_selected_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [
        EntryPoint("good", f"{__name__}:withhold", room.GROUP),
        EntryPoint("broken", "nowhere:check", room.GROUP),
        EntryPoint("no_function", f"{__name__}:TEXT", room.GROUP),
    ]
    monkeypatch.setattr(room, "entry_points", lambda group: [point for point in installed if point.group == group])
    assert content_filter("") is None
    assert isinstance(content_filter("good"), ContentFilter)
    for name in ("broken", "no_function", "other"):
        with pytest.raises(CannotStart, match=name):
            content_filter(name)
