"""Inpainting on the real Triton, over gRPC, HTTP and REST: equal to diffusers, and unchanged outside the mask."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from diffusers import FluxInpaintPipeline
from PIL import Image, ImageOps

from conftest import DEMO
from flux_client import FluxClient, ImageResult, InvalidRequest
from flux_client.cli import main
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from images import encoded
from raw import CONTEXT, NEGATIVE, array_of, call_grpc
from reference import StockDiffusers
from stock import deterministic
from test_editing import apple_on_white

pytestmark = pytest.mark.live

SIZES = [(64, 64), (96, 64), (128, 128)]
STEPS, SEED, PROMPT, GUIDANCE = 10, 11, "blue car", 3.0
SOURCE = apple_on_white()
#: White in the lower half, with a diagonal edge.
MASK = Image.fromarray(
    np.where(np.add.outer(2 * np.arange(SOURCE.height), np.arange(SOURCE.width)) > 128, 255, 0).astype(np.uint8)
)
OPTIONS: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}


@pytest.fixture(scope="module")
def stock() -> StockDiffusers:
    return StockDiffusers(DEMO)


@pytest.fixture(scope="module", params=["grpc", "http"])
def client(demo_server: TritonServer, request: pytest.FixtureRequest) -> Iterator[FluxClient]:
    url = demo_server.grpc_url if request.param == "grpc" else demo_server.http_url
    with FluxClient(url, protocol=request.param) as client:
        yield client


def pipeline_of(stock: StockDiffusers) -> Any:
    parts = {name: part for name, part in stock.base_with_text.components.items() if "image_" not in name}
    pipeline = FluxInpaintPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_inpaint(stock: StockDiffusers, output_type: str = "pil", **arguments: Any) -> Any:
    given = {"prompt": PROMPT, "image": SOURCE, "mask_image": MASK, "guidance_scale": GUIDANCE, **arguments}
    generator = torch.Generator("cpu").manual_seed(SEED)
    with deterministic(stock.base_with_text.vae):
        return pipeline_of(stock)(
            num_inference_steps=STEPS, generator=generator, output_type=output_type, **given
        ).images[0]


def difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max(axis=2)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("strength", [0.4, 0.8, 1.0])
def test_masked_part_is_that_of_diffusers_and_the_rest_is_kept(
    client: FluxClient, stock: StockDiffusers, height: int, width: int, strength: float
) -> None:
    size = {"height": height, "width": width}
    expected = stock_inpaint(stock, strength=strength, **size)
    (result,) = client.inpaint(SOURCE, MASK, strength=strength, fit="stretch", **OPTIONS, **size)
    source, mask = (each.resize((width, height), Image.Resampling.LANCZOS) for each in (SOURCE, MASK))
    inside = np.asarray(mask) >= 128
    assert difference(result.image, expected)[inside].max() <= 1
    assert difference(result.image, source)[~inside].max() == 0
    assert difference(result.image, source)[inside].max() > 30


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_latents_are_those_of_diffusers(
    demo_server: TritonServer, stock: StockDiffusers, height: int, width: int
) -> None:
    size = {"height": height, "width": width}
    expected = stock_inpaint(stock, "latent", strength=0.7, **size).numpy()

    def call(model: str, tensors: dict[str, Any], outputs: list[str]) -> dict[str, np.ndarray]:
        arrays = {
            name: value if isinstance(value, np.ndarray) else array_of(name, value) for name, value in tensors.items()
        }
        return call_grpc(demo_server.grpc_url, model, arrays, outputs)

    sides = {"HEIGHT": height, "WIDTH": width}
    source = {"IMAGE": [encoded(SOURCE)], "MASK_IMAGE": [encoded(MASK)], "FIT": "stretch", **sides}
    prepared = call("flux_vae_encoder", source, ["SOURCE_LATENTS", "SOURCE_MASK"])
    context = call("flux_prior_redux", {"PROMPT": PROMPT}, [*CONTEXT, *NEGATIVE])
    sampling = {"STRENGTH": 0.7, "NUM_INFERENCE_STEPS": STEPS, "GUIDANCE_SCALE": GUIDANCE, "SEED": SEED, **sides}
    inputs = sampling | {name: array[None] for name, array in (prepared | context).items()}
    (actual,) = call("flux_base", inputs, ["LATENTS"])["LATENTS"]
    assert np.abs(actual - expected).max() <= 1e-4


@pytest.mark.parametrize("padding", [0, 16])
def test_crop_to_mask_is_that_of_diffusers(client: FluxClient, stock: StockDiffusers, padding: int) -> None:
    large = SOURCE.resize((160, 128), Image.Resampling.BICUBIC)
    mask = Image.new("L", large.size)
    mask.paste(255, (70, 40, 110, 80))
    size = {"height": 64, "width": 64}
    expected = stock_inpaint(stock, image=large, mask_image=mask, padding_mask_crop=padding, strength=0.8, **size)
    (result,) = client.inpaint(large, mask, padding_mask_crop=padding, strength=0.8, **OPTIONS, **size)
    assert result.image.size == large.size
    assert difference(result.image, expected).max() <= 1
    assert difference(result.image, large)[np.asarray(mask) == 0].max() == 0


def test_redux_image_guides_the_masked_part(client: FluxClient) -> None:
    green = Image.new("RGB", (64, 64), (20, 160, 40))
    options = {**OPTIONS, "prompt": "", "strength": 1.0}
    results = [client.inpaint(SOURCE, MASK, images=images, **options)[0].image for images in (None, green)]
    inside = np.asarray(MASK) > 0
    greens = [
        np.asarray(image, int)[inside][:, 1].mean() - np.asarray(image, int)[inside][:, 0].mean() for image in results
    ]
    assert greens[1] > greens[0] + 30


def test_strength_of_zero_returns_the_image(client: FluxClient) -> None:
    (result,) = client.inpaint(SOURCE, MASK, strength=0.0, **OPTIONS)
    assert difference(result.image, SOURCE).max() == 0


def test_stream_returns_the_image_of_a_call(demo_server: TritonServer) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        (expected,) = client.inpaint(SOURCE, MASK, strength=0.8, **OPTIONS)
        with client.stream(mode="inpaint", source_image=SOURCE, mask_image=MASK, strength=0.8, **OPTIONS) as stream:
            *_, last = stream
    assert isinstance(last, ImageResult)
    assert difference(last.image, expected.image).max() <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_image": MASK.resize((32, 32))}, "flux_vae_encoder: MASK_IMAGE has 32x32 pixels, expected 64x64"),
        ({"mask_image": Image.new("L", SOURCE.size)}, "flux_vae_encoder: MASK_IMAGE selects no pixel"),
        ({"mask_image": b"junk"}, r"flux_vae_encoder: MASK_IMAGE\[0\]: not an image"),
        ({"source_image": b"junk"}, r"flux_vae_encoder: SOURCE_IMAGE\[0\]: not an image"),
        ({"mask_feather": -1}, "MASK_FEATHER=-1, expected 0..256"),
    ],
    ids=["size", "black", "junk", "junk source", "feather"],
)
def test_rejects_mask(client: FluxClient, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        client.inpaint(**{"source_image": SOURCE, "mask_image": MASK, **OPTIONS, **changes})


def test_white_mask_is_image_to_image(client: FluxClient) -> None:
    white = Image.new("L", SOURCE.size, 255)
    (result,) = client.inpaint(SOURCE, white, strength=0.7, **OPTIONS)
    (expected,) = client.img2img(SOURCE, image_strength=0.0, strength=0.7, **OPTIONS)
    assert difference(result.image, expected.image).max() <= 1


def test_genserve_fill_and_openai_edit_with_mask(gateway: Gateway, demo_server: TritonServer) -> None:
    size = {"height": 64, "width": 64}
    with FluxClient(demo_server.grpc_url) as client:
        (expected,) = client.inpaint(SOURCE, MASK, strength=1.0, **OPTIONS, **size)
    fields = {
        "mode": "fill",
        "model_id": "flux1-fill-dev",
        "prompt": PROMPT,
        "num_inference_steps": STEPS,
        "seed": SEED,
    }
    fields |= {"cfg": GUIDANCE, **size}
    images = {"input_image": encoded(SOURCE), "mask_image": encoded(MASK)}
    in_json = {name: base64.b64encode(data).decode() for name, data in images.items()}
    for answer in (
        httpx.post(f"{gateway.url}/generate", json={**fields, **in_json}, timeout=60),
        httpx.post(f"{gateway.url}/generate/upload", data=fields, files=images, timeout=60),
    ):
        assert answer.json()["success"], answer.text
        made = Image.open(io.BytesIO(base64.b64decode(answer.json()["image_base64"])))
        assert difference(made, expected.image).max() <= 1
    transparent = SOURCE.convert("RGBA")
    transparent.putalpha(ImageOps.invert(MASK))
    body = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
    with openai.OpenAI(api_key="any", base_url=f"{gateway.url}/v1") as api:
        edited = api.images.edit(
            image=encoded(SOURCE),
            mask=encoded(transparent),
            prompt=PROMPT,
            size="64x64",
            extra_body=body,  # type: ignore[arg-type]
        )
    made = Image.open(io.BytesIO(base64.b64decode((edited.data or [])[0].b64_json or "")))
    assert difference(made, expected.image).max() <= 1


def test_command_line_writes_inpainted_image(demo_server: TritonServer, tmp_path: Path) -> None:
    SOURCE.save(tmp_path / "apple.png")
    MASK.save(tmp_path / "mask.png")
    images = [str(tmp_path / "apple.png"), "--mask-image", str(tmp_path / "mask.png")]
    options = ["--prompt", PROMPT, "--steps", "4", "--seed", "3", "--mask-feather", "2", "-o", str(tmp_path / "out")]
    assert main(["inpaint", *images, *options, "--url", demo_server.grpc_url]) == 0
    (written,) = (tmp_path / "out").iterdir()
    with Image.open(written) as image:
        assert difference(image.convert("RGB"), SOURCE)[np.asarray(MASK) == 0].max() == 0
        assert json.loads(image.getexif()[270])["seed"] == 3
