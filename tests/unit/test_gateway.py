"""The gateway with a fake Triton server. The live tests use a real one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from asking import gateway
from flux_client import AsyncFluxClient, GenerationFailed, NotConnected, Overloaded
from flux_client.fake import AsyncFakeTransport
from flux_contract.errors import CannotStart, FluxError
from flux_contract.modes import MODES
from flux_gateway.admission import Admission
from flux_gateway.app import make_app
from flux_gateway.generation_service import ClientDisconnected, while_there
from flux_gateway.keys import Caller, Keys, new_key
from flux_gateway.refusals import Refusal
from flux_gateway.settings import Settings
from images import encoded

NINE = {
    "success",
    "task_id",
    "image_base64",
    "error",
    "elapsed_time",
    "gpu_id",
    "model_id",
    "mode",
    "controlnet_type",
}


def ask(
    path: str, *, settings: Settings | None = None, errors: tuple[FluxError, ...] = (), **how: Any
) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with gateway(AsyncFakeTransport(*errors), settings) as caller:
            return await caller.post(path, **how)

    return asyncio.run(asked())


def sent(path: str, **how: Any) -> dict[str, Any]:
    """Returns the inputs that this request sends to Triton, by tensor name."""
    transport = AsyncFakeTransport()

    async def asked() -> None:
        async with gateway(transport) as caller:
            response = await caller.post(path, **how)
            assert response.status_code == 200, response.text

    asyncio.run(asked())
    (request,) = [each.request for each in transport.fake.sent]
    return {name: value.tolist() for name, value in request.inputs.items()}


def red_image(size: tuple[int, int] = (32, 32)) -> bytes:
    return encoded(Image.new("RGB", size, "red"))


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("asked", "model_id"),
    [
        ({"mode": "text2img", "prompt": "red apple"}, "flux1-dev"),
        ({"mode": "redux", "input_image": in_base64(red_image())}, "flux1-redux-dev"),
        ({"mode": "img2img", "image": f"data:image/png;base64,{in_base64(red_image())}"}, "flux1-dev"),
        ({"mode": "controlnet", "control_image": in_base64(red_image())}, "flux1-canny-dev"),
        ({"model_id": "flux1-redux-dev", "input_image": in_base64(red_image())}, "flux1-redux-dev"),
    ],
)
def test_each_mode_returns_nine_keys_and_a_png_of_the_requested_size(asked: dict[str, Any], model_id: str) -> None:
    response = ask("/generate", json={**asked, "height": 64, "width": 96})
    answer = response.json()
    assert response.status_code == 200
    assert answer.keys() >= NINE
    assert (answer["success"], answer["error"], answer["model_id"]) == (True, None, model_id)
    assert uuid.UUID(answer["task_id"]).hex == response.headers["x-request-id"]
    image = Image.open(io.BytesIO(base64.b64decode(answer["image_base64"])))
    assert (image.format, image.size) == ("PNG", (96, 64))


def test_a_form_is_equivalent_to_json() -> None:
    asked = {"mode": "redux", "height": 64, "width": 64, "seed": 7, "cfg": 3, "num_inference_steps": 4}
    by_json = sent("/generate", json={**asked, "input_image": in_base64(red_image()), "loras": [{"name": "a"}]})
    form = {name: str(value) for name, value in asked.items()} | {"loras": '[{"name": "a"}]', "prompt": ""}
    by_form = sent("/generate/upload", data=form, files={"input_image": red_image()})
    assert by_json == by_form


def test_parameters_without_a_genserve_default_use_the_servers_default() -> None:
    asked = sent("/generate", json={"mode": "text2img", "prompt": "red apple", "unknown": 1})
    assert not {"HEIGHT", "WIDTH", "NUM_INFERENCE_STEPS"} & asked.keys()
    assert asked["GUIDANCE_SCALE"] == [[3.5]]
    assert asked["SEED"] == [[42]]


def test_redux_parameters_are_sent_only_in_modes_with_redux_images() -> None:
    given = {"input_image": in_base64(red_image()), "image_strength": 0.5, "image_detail": 3}
    for asked in ({"mode": "redux"}, {"mode": "img2img"}, {"mode": "img2img", "prompt": "a"}):
        found = sent("/generate", json={**given, **asked})
        assert (found["IMAGE_STRENGTH"], found["IMAGE_DETAIL"]) == ([[0.5]], [[3]])
    for asked in ({"mode": "controlnet"}, {"mode": "text2img", "prompt": "a"}):
        assert not {"IMAGE_STRENGTH", "IMAGE_DETAIL"} & sent("/generate", json={**given, **asked}).keys()
    without = {"mode": "img2img", "input_image": given["input_image"]}
    assert "IMAGE_STRENGTH" not in sent("/generate", json=without)
    assert sent("/generate", json={**without, "prompt": "a"})["IMAGE_STRENGTH"] == [[0.0]]


def test_redux_accepts_several_images_with_values_and_masks_of_their_own() -> None:
    image, mask = in_base64(red_image()), in_base64(red_image())
    given = {"input_images": [image, image], "image_strength": [0.5, 1], "image_fit": ["cover", "tiles"]}
    asked = sent("/generate", json={"mode": "redux", **given, "image_mask": [mask, ""], "image_start": 0.25})
    assert len(asked["IMAGE"][0]) == 2
    assert (asked["IMAGE_STRENGTH"], asked["IMAGE_START"]) == ([[0.5, 1]], [[0.25]])
    assert [text.decode() for text in asked["IMAGE_FIT"][0]] == ["cover", "tiles"]
    assert [bool(each) for each in asked["IMAGE_MASK"][0]] == [True, False]


def test_a_form_repeats_the_fields_of_several_images() -> None:
    files = [("input_images", ("a.png", red_image())), ("input_images", ("b.png", red_image()))]
    form = {"mode": "redux", "image_strength": ["0.5", "1"], "image_detail": "2"}
    asked = sent("/generate/upload", data=form, files=files)
    assert len(asked["IMAGE"][0]) == 2
    assert (asked["IMAGE_STRENGTH"], asked["IMAGE_DETAIL"]) == ([[0.5, 1]], [[2]])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mode": "img2img", "count": 2}, "input_images: 2 images in mode 'img2img', expected one"),
        ({"mode": "redux", "count": 9}, "input_images: 9 images in mode 'redux', expected 1..8"),
        ({"mode": "redux", "count": 1, "image_strength": 5}, "image_strength: Input should be less than or equal to 4"),
        ({"mode": "redux", "count": 2, "image_strength": [1, 5]}, "image_strength.1: Input should be less than or"),
    ],
)
def test_wrong_values_of_images_are_rejected_with_the_field(fields: dict[str, Any], words: str) -> None:
    images = [in_base64(red_image())] * fields.pop("count")
    response = ask("/generate", json={**fields, "input_images": images})
    assert response.status_code == 422
    assert response.json()["error"].startswith(words)


def test_every_endpoint_has_a_summary_that_says_what_it_does() -> None:
    description = make_app(Settings()).openapi()
    for path, operations in description["paths"].items():
        for operation in operations.values():
            assert len(operation["summary"].split()) >= 3, path


def test_lower_numbers_become_higher_priorities() -> None:
    text = {"mode": "text2img", "prompt": "red apple"}
    found = [sent("/generate", json={**text, "priority": given})["PRIORITY"] for given in (-5, 0, 3)]
    assert found == [[[1]], [[0]], [[-1]]]


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({"json": {"mode": "redux"}}, 422, "input_image"),
        ({"json": {"mode": "text2img"}}, 422, "prompt"),
        ({"json": {"mode": "controlnet"}}, 422, "control_image"),
        ({"json": {"mode": "video"}}, 422, "'text2img'"),
        ({"json": {"mode": "fill"}}, 422, "input_image"),
        ({"json": {"mode": "fill", "input_image": in_base64(red_image())}}, 422, "mask_image"),
        (
            {"json": {"mode": "redux", **dict.fromkeys(("input_image", "mask_image"), in_base64(red_image()))}},
            400,
            "'fill'",
        ),
        ({"json": {"mode": "nothing"}}, 422, "mode"),
        ({"json": {"prompt": "a", "model_id": "sdxl"}}, 422, "model_id"),
        ({"json": {"mode": "controlnet", "controlnet_type": "depth", "control_image": "AAAA"}}, 400, "depth"),
        ({"json": {"prompt": "a", "height": 5000}}, 422, "height"),
        ({"json": {"prompt": "a", "height": 4096, "width": 4096}}, 422, "pixels"),
        ({"json": {"prompt": "a", "seed": "x"}}, 422, "seed"),
        ({"json": {"prompt": "a", "cfg": float("1e40")}}, 422, "cfg"),
        ({"json": {"mode": "redux", "input_image": "/etc/passwd"}}, 422, "base64"),
        ({"json": {"mode": "redux", "input_image": 7}}, 422, "base64"),
        ({"json": {"prompt": "a", "loras": [{"name": "a", "weight": 3}]}}, 422, "loras"),
        ({"json": [1]}, 422, "object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "JSON"),
        ({"content": b"\xff", "headers": {"content-type": "application/json"}}, 400, "JSON"),
        ({"content": b"a", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ({"content": b"a"}, 415, "none"),
        ({"content": b"a", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"data": {"prompt": "a", "loras": "["}}, 422, "loras"),
        ({"data": {"prompt": "a", "loras": "[" * 100_000}}, 422, "loras"),
        ({"content": b'{"prompt":"\\ud800"}', "headers": {"content-type": "application/json"}}, 422, "prompt"),
    ],
)
def test_invalid_requests_are_rejected_in_json_without_calling_triton(
    how: dict[str, Any], status: int, words: str
) -> None:
    response = ask("/generate", errors=(AssertionError("Triton was called"),), **how)  # type: ignore[arg-type]
    answer = response.json()
    assert (response.status_code, answer["success"]) == (status, False)
    assert words in answer["error"]
    assert answer["detail"] == answer["error"]
    assert answer.keys() >= NINE


def test_an_unknown_path_and_an_unsupported_method_are_json_errors() -> None:
    assert ask("/nothing").json()["success"] is False
    assert ask("/health").status_code == 405


def test_a_failed_generation_has_status_200() -> None:
    """GenServe's clients read `error` from a response with status 200."""
    failure = "flux_base: the latents are not finite"
    response = ask("/generate", json={"prompt": "a"}, errors=(GenerationFailed(failure),))
    assert response.status_code == 200
    assert (response.json()["success"], response.json()["error"]) == (False, failure)


@pytest.mark.parametrize("error", [Overloaded("full"), NotConnected("gone")])
def test_a_full_or_unreachable_server_is_503_with_retry_after(error: FluxError) -> None:
    response = ask("/generate", json={"prompt": "a"}, errors=(error,))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["success"] is False


def test_health_and_generate_report_that_no_mode_is_ready() -> None:
    async def asked() -> None:
        async with gateway(AsyncFakeTransport(ready=False)) as caller:
            for response in (await caller.get("/health"), await caller.post("/generate", json={"prompt": "a"})):
                assert response.status_code == 503
                assert "loading" in response.json()["error"]

    asyncio.run(asked())


def test_a_body_above_the_limit_is_413() -> None:
    settings = Settings(body_bytes=1000)
    assert ask("/generate", settings=settings, json={"prompt": "a" * 2000}).status_code == 413

    async def piece_by_piece() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    headers = {"content-type": "application/json"}
    assert ask("/generate", settings=settings, content=piece_by_piece(), headers=headers).status_code == 413


def test_with_keys_only_their_callers_are_accepted(tmp_path: Path) -> None:
    key, kept = new_key("ann")
    assert key not in json.dumps(kept)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([kept | {"per_minute": 60, "priority": 0}]))
    settings = Settings(keys_file=file)
    wanted = {"json": {"prompt": "a", "priority": -1}, "settings": settings}
    assert ask("/generate", **wanted).status_code == 401
    assert ask("/generate", **wanted, headers={"Authorization": "Bearer no"}).status_code == 401
    assert ask(f"/generate?api_key={key}", **wanted).status_code == 401
    assert ask("/generate", **wanted, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert ask("/generate", **wanted, headers={"X-API-Key": key}).status_code == 200


def test_without_keys_an_authorization_header_is_ignored() -> None:
    assert ask("/generate", json={"prompt": "a"}, headers={"Authorization": "Bearer any"}).status_code == 200


@pytest.mark.parametrize("text", ["{", "[]", "{}", '[{"name": "a"}]', '[{"sha256": "ab", "name": "a"}]'])
def test_a_key_file_without_a_valid_key_stops_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(CannotStart):
        Keys.from_file(file)


def test_rate_and_concurrency_are_limited_per_caller_and_in_total() -> None:
    now = 0.0
    admission = Admission(2, 1, lambda: now)
    slow = Caller("slow", per_minute=2)
    with admission.admitted(slow):
        with pytest.raises(Refusal) as twice, admission.admitted(slow):
            pass
        assert twice.value.status == 429
        with admission.admitted(Caller("other")), pytest.raises(Refusal) as full, admission.admitted(Caller("third")):
            pass
        assert full.value.status == 503
    assert admission.running == 0
    with admission.admitted(slow):
        pass
    with pytest.raises(Refusal) as fast, admission.admitted(slow):
        pass
    assert (fast.value.status, fast.value.retry_after_s) == (429, 30)
    now = 30.0
    with admission.admitted(slow):
        pass


def test_disconnecting_cancels_the_generation() -> None:
    ended: list[bool] = []

    class Disconnected:
        async def receive(self) -> dict[str, str]:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    async def run() -> None:
        with pytest.raises(ClientDisconnected):
            await while_there(Disconnected(), work())  # type: ignore[arg-type]

    asyncio.run(run())
    assert ended == [True]


def test_the_log_has_requests_without_images_keys_and_prompts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        response = ask("/generate?secret=1", json={"prompt": "words"}, headers={"X-API-Key": "hush"})
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "flux_gateway.access"]
    assert (line["id"], line["status"], line["path"]) == (response.headers["x-request-id"], 200, "/generate")
    assert line["caller"] == "127.0.0.1"
    # httpx, the test's client, logs the requested URL.
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx")
    for private in ("words", "hush", "secret"):
        assert private not in logged


def test_an_unexpected_exception_is_500_in_json_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def asked() -> httpx.Response:
        client = AsyncFluxClient(transport=AsyncFakeTransport(ZeroDivisionError("secret")))  # type: ignore[arg-type]
        app = make_app(Settings(), client)
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0.05)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as caller:
                return await caller.post("/generate", json={"prompt": "a"})

    with caplog.at_level(logging.INFO):
        response = asyncio.run(asked())
    assert (response.status_code, response.json()["success"]) == (500, False)
    assert "secret" not in response.text
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "flux_gateway.access"]
    assert line["status"] == 500


@pytest.mark.parametrize(
    "environment",
    [
        {"FLUX_GATEWAY_PORT": "x"},
        {"FLUX_GATEWAY_PORTS": "1"},
        {"FLUX_GATEWAY_PORT": "65536"},
        {"FLUX_GATEWAY_TIMEOUT_S": "-1"},
        {"FLUX_GATEWAY_CONCURRENCY": "99999999999999999999999999"},
        {"FLUX_GATEWAY_TIMEOUT_S": "1e300"},
        {"FLUX_GATEWAY_LORAS": "/nope"},
        {"FLUX_GATEWAY_LORAS": "/dev/null"},
        {"FLUX_GATEWAY_HOSTS": "http://a"},
        {"FLUX_GATEWAY_HOSTS": "a.example:80"},
        {"FLUX_GATEWAY_HOSTS": "a b"},
    ],
)
def test_an_invalid_setting_stops_the_start_and_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(CannotStart, match=next(iter(environment))):
        Settings.from_environment(environment)


def test_hosts_may_be_names_domains_addresses_or_a_wildcard() -> None:
    assert Settings.from_environment({"FLUX_GATEWAY_HOSTS": "flux.example, .example.com,*,10.0.0.1,[::1],a_b"}).hosts


def test_adapters_are_listed_by_the_names_for_requests(tmp_path: Path) -> None:
    for name in ("red.safetensors", "blue.safetensors", "notes.txt"):
        (tmp_path / name).touch()

    async def asked(settings: Settings) -> Any:
        async with gateway(settings=settings) as caller:
            return (await caller.get("/loras")).json()

    found = asyncio.run(asked(Settings.from_environment({"FLUX_LORA_PATH": str(tmp_path)})))
    assert found == {"loras": [{"name": "blue"}, {"name": "red"}]}
    assert asyncio.run(asked(Settings())) == {"loras": []}


def test_adapter_names_that_are_not_utf_8_are_listed_as_in_the_models_error(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff\xfe.safetensors")).touch()
    (tmp_path / "folder.safetensors").mkdir()

    async def asked() -> Any:
        async with gateway(settings=Settings(loras=tmp_path)) as caller:
            return (await caller.get("/loras")).json()

    assert asyncio.run(asked()) == {"loras": [{"name": r"bad\xff\xfe"}]}
    name = sent("/generate", json={"prompt": "a", "loras": [{"name": r"bad\xff\xfe"}]})["LORA"]
    assert name == [[rb"bad\xff\xfe"]]


def test_status_reports_running_requests() -> None:
    async def asked() -> Any:
        async with gateway(settings=Settings(concurrency=5)) as caller:
            return (await caller.get("/status")).json()

    answer = asyncio.run(asked())
    assert (answer["status"], answer["requests_in_work"], answer["requests_at_most"]) == ("running", 0, 5)
    assert "redux" in answer["modes"]


def test_metrics_count_by_route_and_by_outcome() -> None:
    async def asked() -> str:
        async with gateway() as caller:
            await caller.post("/generate", json={"prompt": "a"})
            await caller.post("/generate", json={"seed": "x"})
            for path in ("/v1/jobs/a", "/v1/jobs/b", "/nothing", "/nothing/more"):
                await caller.get(path)
            return (await caller.get("/metrics")).text

    lines = asyncio.run(asked()).splitlines()
    for expected in (
        'flux_gateway_requests_total{method="POST",path="/generate",status="200"} 1.0',
        'flux_gateway_requests_total{method="POST",path="/generate",status="422"} 1.0',
        'flux_gateway_requests_total{method="GET",path="/v1/jobs/{job_id}",status="404"} 2.0',
        'flux_gateway_requests_total{method="GET",path="other",status="404"} 2.0',
        'flux_gateway_generations_total{mode="text2img",outcome="done"} 1.0',
        "flux_gateway_in_work 0.0",
        "flux_gateway_ready 1.0",
    ):
        assert expected in lines, expected


def test_a_browser_gets_the_page_and_other_clients_the_endpoints() -> None:
    async def asked() -> None:
        async with gateway() as caller:
            page = await caller.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
            about = await caller.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'self'" in page.headers["content-security-policy"]
            assert "/generate" in about.json()["endpoints"]
            for name in re.findall(r'(?:href|src)="(/page/[^"]+)"', page.text):
                assert (await caller.get(name)).status_code == 200, name
            for name in ("routes.py", "..%2fapp.py", "nothing.js"):
                assert (await caller.get(f"/page/{name}")).status_code == 404
            script = await caller.get("/page/main.js")
            again = await caller.get("/page/main.js", headers={"If-None-Match": script.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["content-security-policy"] == script.headers["content-security-policy"]

    asyncio.run(asked())


BROKEN_FORM = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'


def multipart_body(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": "multipart/form-data; boundary=b"}}


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({"content": b"prompt=a%FF", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 400, "utf-8"),
        (multipart_body(BROKEN_FORM + b"a\xff\r\n--b--\r\n"), 400, "'prompt'"),
        (multipart_body(BROKEN_FORM + b"\xed\xa0\x80\r\n--b--"), 400, "UTF-8"),
        (multipart_body(BROKEN_FORM + b"apple"), 400, "incomplete"),
        (multipart_body(BROKEN_FORM + b"apple\r\n--b\r\n"), 400, "incomplete"),
        ({"files": {"input_image": ("a.png", b"")}, "data": {"mode": "redux"}}, 422, "input_image: the file is empty"),
    ],
)
def test_rejects_a_malformed_form_with_a_reason(how: dict[str, Any], status: int, words: str) -> None:
    answer = ask("/generate/upload", **how)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_accepts_a_form_with_unselected_files_and_a_bare_final_boundary() -> None:
    not_chosen = b'\r\n--b\r\nContent-Disposition: form-data; name="input_image"; filename=""\r\n\r\n\r\n--b--'
    answer = ask("/generate/upload", **multipart_body(BROKEN_FORM + "äpple".encode() + not_chosen))
    assert answer.status_code == 200, answer.text


def test_exactly_the_ready_modes_are_offered() -> None:
    error = ask("/generate", json={"mode": "none"}).json()["error"]
    assert set(re.findall(r"'(\w+)'", error)) == {mode.genserve for mode in MODES}


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
def test_true_cfg_scale_requires_a_negative_prompt_which_may_be_empty(path: str) -> None:
    answer = ask(path, json={"prompt": "a", "true_cfg_scale": 2})
    assert (answer.status_code, "true_cfg_scale: requires negative_prompt" in answer.text) == (422, True)
    assert "TRUE_CFG_SCALE" in sent(path, json={"prompt": "a", "true_cfg_scale": 2, "negative_prompt": ""})
    assert "NEGATIVE_PROMPT" not in sent(path, json={"prompt": "a", "true_cfg_scale": 1})
