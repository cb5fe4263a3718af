"""Parity of every mode: Triton returns what the mode's stock diffusers pipeline returns."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxImg2ImgPipeline
from PIL import Image

from conftest import DEMO, ROOT
from flux_client import FluxClient, ImageResult, InvalidRequest
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from raw import CONTEXT, NEGATIVE, array_of, call_grpc
from reference import StockDiffusers
from stock import deterministic

pytestmark = pytest.mark.live

SIZES = [(64, 64), (96, 64), (128, 128)]
STEPS, SEED, PROMPT = 10, 11, "red apple"
#: An image of the kind that the demo checkpoint was trained for.
APPLE = ROOT / "tools" / "flux_tools" / "demo" / "unseen" / "red-apple.png"
LATENT_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def stock() -> StockDiffusers:
    return StockDiffusers(DEMO)


@pytest.fixture(scope="module")
def client(demo_server: TritonServer) -> Iterator[FluxClient]:
    with FluxClient(demo_server.grpc_url) as client:
        yield client


def run_stock(stock: StockDiffusers, kind: Any, arguments: dict[str, Any], **parts: Any) -> tuple[np.ndarray, Any]:
    """Returns latents and pixels of a stock pipeline whose VAE encodes with the mode of the distribution."""
    base = stock.base_with_text
    pipeline = kind(**{name: part for name, part in base.components.items() if "image_" not in name}, **parts)
    pipeline.set_progress_bar_config(disable=True)
    with deterministic(base.vae):
        latents = pipeline(
            num_inference_steps=STEPS,
            generator=torch.Generator("cpu").manual_seed(SEED),
            output_type="latent",
            **arguments,
        ).images
    return latents[0].numpy(), stock._decode(latents, arguments["height"], arguments["width"])


def latents_of(server: TritonServer, for_prior: dict[str, Any], for_base: dict[str, Any]) -> np.ndarray:
    """Returns the final latents, by calling the ensemble's models one after another."""
    tensors = {name: array_of(name, value) for name, value in for_prior.items()}
    context = call_grpc(server.grpc_url, "flux_prior_redux", tensors, [*CONTEXT, *NEGATIVE])
    tensors = {name: array_of(name, value) for name, value in for_base.items()}
    tensors |= {name: values[None] for name, values in context.items()}
    return call_grpc(server.grpc_url, "flux_base", tensors, ["LATENTS"])["LATENTS"][0]


def encoded_latents(server: TritonServer, image: bytes, height: int, width: int, fit: str = "stretch") -> np.ndarray:
    given = {"IMAGE": [image], "HEIGHT": height, "WIDTH": width, "FIT": fit}
    tensors = {name: array_of(name, value) for name, value in given.items()}
    return call_grpc(server.grpc_url, "flux_vae_encoder", tensors, ["SOURCE_LATENTS"])["SOURCE_LATENTS"]


def apple_on_white() -> Image.Image:
    apple = Image.open(APPLE).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", apple.size, "white"), apple).convert("RGB")


def check_image(variation: ImageResult, rgb: np.ndarray) -> None:
    """Latents that differ in the last digits may round to the neighbouring level."""
    difference = np.abs(np.asarray(variation.image, int) - rgb)
    assert difference.shape == rgb.shape
    assert difference.max() <= 1


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
def test_image_to_image_matches_diffusers(
    demo_server: TritonServer, client: FluxClient, stock: StockDiffusers, height: int, width: int, strength: float
) -> None:
    """Guided only by a prompt, like the stock pipeline. The image is square, so that both resize it in the same way."""
    size = {"height": height, "width": width}
    arguments = {"prompt": PROMPT, "image": apple_on_white(), "strength": strength, "guidance_scale": 3.0, **size}
    latents, rgb = run_stock(stock, FluxImg2ImgPipeline, arguments)
    png = APPLE.read_bytes()
    (variation,) = client.img2img(
        png,
        prompt=PROMPT,
        image_strength=0.0,
        strength=strength,
        fit="stretch",
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        seed=SEED,
        **size,
    )
    check_image(variation, rgb)
    own = latents_of(
        demo_server,
        {"IMAGE": [png], "IMAGE_STRENGTH": [0.0], "PROMPT": PROMPT},
        {
            "SOURCE_LATENTS": encoded_latents(demo_server, png, height, width),
            "STRENGTH": strength,
            "HEIGHT": height,
            "WIDTH": width,
            "NUM_INFERENCE_STEPS": STEPS,
            "GUIDANCE_SCALE": 3.0,
            "SEED": SEED,
        },
    )
    assert np.abs(own - latents).max() <= LATENT_TOLERANCE


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("negative", [None, "", "green tree"])
def test_text_to_image_matches_diffusers(
    demo_server: TritonServer,
    client: FluxClient,
    stock: StockDiffusers,
    height: int,
    width: int,
    negative: str | None,
) -> None:
    """Without true CFG, and with it against an empty and a non-empty negative prompt."""
    size = {"height": height, "width": width}
    against = {} if negative is None else {"negative_prompt": negative, "true_cfg_scale": 1.5}
    arguments = {"prompt": PROMPT, "guidance_scale": 2.0, **against, **size}
    latents, rgb = run_stock(stock, type(stock.base_with_text), arguments)
    (variation,) = client.text2img(PROMPT, num_inference_steps=STEPS, guidance_scale=2.0, seed=SEED, **against, **size)
    check_image(variation, rgb)
    of_prior = {"PROMPT": PROMPT} | ({} if negative is None else {"NEGATIVE_PROMPT": negative})
    of_base = {"HEIGHT": height, "WIDTH": width, "NUM_INFERENCE_STEPS": STEPS, "GUIDANCE_SCALE": 2.0, "SEED": SEED}
    of_base |= {} if negative is None else {"TRUE_CFG_SCALE": 1.5}
    assert np.abs(latents_of(demo_server, of_prior, of_base) - latents).max() <= LATENT_TOLERANCE


@pytest.fixture(scope="module")
def controlnet() -> FluxControlNetModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FluxControlNetModel.from_pretrained(DEMO.controlnet)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("scale", "start", "end"), [(1.0, 0.0, 1.0), (0.7, 0.1, 0.6)])
def test_edge_control_matches_diffusers(
    demo_server: TritonServer,
    client: FluxClient,
    stock: StockDiffusers,
    controlnet: FluxControlNetModel,
    height: int,
    width: int,
    scale: float,
    start: float,
    end: float,
) -> None:
    size = {"height": height, "width": width}
    png = APPLE.read_bytes()
    edges = client.edges(png, fit="stretch", **size)
    arguments = {
        "prompt": PROMPT,
        "control_image": edges,
        "guidance_scale": 2.0,
        "controlnet_conditioning_scale": scale,
        "control_guidance_start": start,
        "control_guidance_end": end,
        **size,
    }
    ready = io.BytesIO()
    edges.save(ready, "PNG")
    latents, rgb = run_stock(stock, FluxControlNetPipeline, arguments, controlnet=controlnet)
    knobs = {"control_scale": scale, "control_start": start, "control_end": end}
    (variation,) = client.canny(
        png, prompt=PROMPT, fit="stretch", num_inference_steps=STEPS, guidance_scale=2.0, seed=SEED, **knobs, **size
    )
    check_image(variation, rgb)
    own = latents_of(
        demo_server,
        {"PROMPT": PROMPT},
        {
            "CONTROL_LATENTS": encoded_latents(demo_server, ready.getvalue(), height, width),
            "HEIGHT": height,
            "WIDTH": width,
            "NUM_INFERENCE_STEPS": STEPS,
            "GUIDANCE_SCALE": 2.0,
            "SEED": SEED,
            **{name.upper(): value for name, value in knobs.items()},
        },
    )
    assert np.abs(own - latents).max() <= LATENT_TOLERANCE


def test_strength_0_returns_the_image_and_1_ignores_it(client: FluxClient) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    for nothing in ({"strength": 0.0}, {"start_sigma": 0.0}):
        back = client.img2img(image, num_images=2, seed=5, **nothing)
        assert [variation.seed for variation in back] == [5, 6]
        assert all(np.array_equal(variation.image, image) for variation in back)
    drawn = drawn_image(seed=6)
    (redux,) = client.redux(drawn, num_inference_steps=6, seed=5)
    for all_of_it in ({"strength": 1.0}, {"start_sigma": 1.0}):
        (changed,) = client.img2img(drawn, num_inference_steps=6, seed=5, **all_of_it)
        assert np.array_equal(changed.image, redux.image)
    (text,) = client.text2img(PROMPT, num_inference_steps=6, seed=5)
    (changed,) = client.img2img(drawn, prompt=PROMPT, image_strength=0.0, strength=1.0, num_inference_steps=6, seed=5)
    assert np.array_equal(changed.image, text.image)


@pytest.mark.parametrize(("fit", "colour"), [("cover", None), ("contain", (255, 255, 255)), ("stretch", None)])
def test_image_of_other_aspect_ratio_is_fitted_as_requested(
    client: FluxClient, fit: str, colour: tuple[int, int, int] | None
) -> None:
    """A red stripe across the left quarter of a wide image: cut off, narrow beside white, or squashed."""
    wide = Image.new("RGB", (128, 64), "blue")
    wide.paste((255, 0, 0), (0, 0, 32, 64))
    (back,) = client.img2img(wide, strength=0.0, fit=fit)
    rgb = np.asarray(back.image, int)
    red = (rgb[32, :, 0] > 200) & (rgb[32, :, 1] < 50)
    assert rgb.shape == (64, 64, 3)
    assert red.sum() == {"cover": 0, "contain": 16, "stretch": 16}[fit]
    if colour is not None:
        assert tuple(rgb[0, 0]) == colour


def test_edge_map_gives_same_image_as_its_photo(client: FluxClient) -> None:
    photo = drawn_image(seed=8)
    edges = client.edges(photo)
    assert set(np.unique(np.asarray(edges))) <= {0, 255}
    wanted = {"prompt": PROMPT, "num_inference_steps": 4, "seed": 2}
    (of_photo,) = client.canny(photo, **wanted)
    (of_edges,) = client.canny(edges, control_kind="edges", **wanted)
    assert np.array_equal(of_photo.image, of_edges.image)


def test_each_image_has_its_seed_and_random_seeds_are_returned(client: FluxClient) -> None:
    variations = client.text2img(PROMPT, num_inference_steps=3, seed=[7, -1, 7, -1])
    seeds = [variation.seed for variation in variations]
    assert seeds[0] == seeds[2] == 7
    assert -1 not in seeds
    assert len(set(seeds)) == 3
    (again,) = client.text2img(PROMPT, num_inference_steps=3, seed=seeds[1])
    assert np.abs(np.asarray(again.image, int) - np.asarray(variations[1].image, int)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("redux", {"images": True}),
        ("img2img", {"images": True, "strength": 0.5}),
        ("img2img", {"images": True, "strength": 0.0}),
        ("text2img", {"prompt": PROMPT, "negative_prompt": "", "true_cfg_scale": 1.5}),
        ("canny", {"control_image": True, "prompt": PROMPT}),
    ],
)
def test_stream_of_any_mode_ends_with_result_of_the_call(client: FluxClient, mode: str, given: dict[str, Any]) -> None:
    png = encoded(drawn_image(seed=9))
    given = {name: png if value is True else value for name, value in given.items()}
    events = list(client.stream(mode=mode, num_inference_steps=6, preview_steps=2, **given))
    *progress, last = events
    call = {"redux": client.redux, "img2img": client.img2img, "text2img": client.text2img, "canny": client.canny}[mode]
    positional = [given.pop(name) for name in ("control_image", "images") if name in given] or [given.pop("prompt")]
    (variation,) = call(*positional, num_inference_steps=6, **given)
    assert np.array_equal(last.image, variation.image)
    steps = {"img2img": 3}.get(mode, 6) if given.get("strength") != 0.0 else 0
    assert [event.step for event in progress] == list(range(steps + 1 if steps else 0))


def test_an_adapter_changes_its_own_request_and_no_other(client: FluxClient) -> None:
    wanted = {"num_inference_steps": 6, "seed": 3}
    image = drawn_image(seed=10)
    (before,) = client.redux(image, **wanted)
    (with_it,) = client.redux(image, lora="greyscale", **wanted)
    (nothing_of_it,) = client.redux(image, lora=["greyscale"], lora_scale=0.0, **wanted)
    (after,) = client.redux(image, **wanted)
    assert before.data == after.data
    assert np.array_equal(before.image, nothing_of_it.image)
    assert np.abs(np.asarray(before.image, int) - np.asarray(with_it.image, int)).mean() > 3
    assert with_it.recipe["lora"] == {"greyscale": 1.0}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.redux(_PNG, lora="../../secret"), r"flux_base: LORA='../../secret', expected one of: greyscale"),
        (lambda c: c.text2img(PROMPT, true_cfg_scale=2.0), "flux_base: TRUE_CFG_SCALE=2 needs NEGATIVE_PROMPT"),
        (lambda c: c.text2img(PROMPT, negative_prompt="x"), "flux_base: NEGATIVE_PROMPT needs TRUE_CFG_SCALE above 1"),
        (lambda c: c.img2img(_PNG, strength=0.5, start_sigma=0.5), "STRENGTH and START_SIGMA set the same thing"),
        (lambda c: c.img2img(_PNG, strength=0.5, num_inference_steps=1), "starts from pure noise"),
        (lambda c: c.img2img(b"no image"), r"flux_vae_encoder: IMAGE\[0\]|flux_prior_redux: IMAGE\[0\]"),
        (lambda c: c.canny(b"no image"), r"canny_edges: CONTROL_IMAGE\[0\]"),
        (lambda c: c.canny(_PNG, canny_low=300.0), "canny_edges: CANNY_LOW=300, expected at most CANNY_HIGH=200"),
        (lambda c: c.canny(_PNG, control_start=0.5, control_end=0.5), "flux_base: CONTROL_START=0.5, expected less"),
        (lambda c: c.img2img(_PNG, height=100), "HEIGHT=100, expected a multiple of 16; nearest: 96 or 112"),
    ],
)
def test_invalid_input_is_rejected_by_the_model_that_reads_it(client: FluxClient, call: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        call(client)
    assert client.redux(_PNG, num_inference_steps=1)


def test_edge_control_without_controlnet_is_rejected(random_server: TritonServer) -> None:
    with (
        FluxClient(random_server.grpc_url) as client,
        pytest.raises(InvalidRequest, match="no ControlNet; set FLUX_CONTROLNET_MODEL_PATH to its folder"),
    ):
        list(client.stream(mode="canny", control_image=_PNG, prompt="", images=_PNG))
    with (
        FluxClient(random_server.grpc_url) as client,
        pytest.raises(InvalidRequest, match="unknown model: 'flux_canny'"),
    ):
        client.canny(_PNG, images=_PNG)
    with (
        FluxClient(random_server.grpc_url) as client,
        pytest.raises(InvalidRequest, match="this server has no adapters; set FLUX_LORA_PATH to their folder"),
    ):
        client.redux(_PNG, lora=Path("x").stem)


_PNG = encoded(drawn_image(seed=12))


def test_edges_are_base64_over_json(demo_server: TritonServer, client: FluxClient) -> None:
    """Raw bytes would make the response invalid JSON."""
    image = APPLE.read_bytes()
    expected = np.asarray(client.edges(image))
    asked = {"CONTROL_IMAGE": base64.b64encode(image).decode(), "OUTPUT_FORMAT": "png;base64"}
    drawing = asked | {"PROMPT": "", "NUM_INFERENCE_STEPS": 2}
    for model, body in (("canny_edges", asked), ("flux_canny", drawing)):
        url = f"http://{demo_server.http_url}/v2/models/{model}/generate"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as response:
            answer = json.load(response)
        edges = Image.open(io.BytesIO(base64.b64decode(answer["EDGE_IMAGE"])))
        assert np.array_equal(np.asarray(edges), expected)
