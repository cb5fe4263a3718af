"""Parity: Triton returns what stock diffusers returns for the same inputs."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import DEMO
from flux_serving.launch.server import TritonServer
from flux_serving.settings import Checkpoints
from images import drawn_image, encoded, pixels
from raw import CONTEXT, call_grpc, call_http, tensors_of
from reference import Reference, StockDiffusers

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def demo_stock() -> StockDiffusers:
    return StockDiffusers(DEMO)


@pytest.fixture(scope="module")
def random_stock(random_checkpoints: Checkpoints) -> StockDiffusers:
    return StockDiffusers(random_checkpoints)


#: Ten times the difference of stock diffusers from itself after 20 steps when the context's tokens are permuted.
LATENT_TOLERANCE = 3e-4


def latents_of(server: TritonServer, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the final latents, by calling the ensemble's first two models one after another."""
    for_prior = {name: tensors[name] for name in ("IMAGE", "PROMPT", "IMAGE_STRENGTH") if name in tensors}
    context = call_grpc(server.grpc_url, "flux_prior_redux", for_prior, CONTEXT)
    for_base = {name: values for name, values in tensors.items() if name not in for_prior}
    for_base |= {name: values[None] for name, values in context.items()}
    return call_grpc(server.grpc_url, "flux_base", for_base, ["LATENTS"])["LATENTS"][0]


def check_parity(
    server: TritonServer, stock: StockDiffusers, *, height: int, width: int, steps: int, **more: str
) -> None:
    image, seed, guidance = drawn_image(seed=height + steps), 1000 + width, 3.0
    expected = stock.variation(image, height=height, width=width, steps=steps, guidance=guidance, seed=seed, **more)
    knobs = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": guidance, "seed": seed}
    check_answers(server, tensors_of([encoded(image)], **more, **knobs), expected, seed)


def check_answers(server: TritonServer, tensors: dict[str, np.ndarray], expected: Reference, seed: int) -> None:
    for call, url in ((call_grpc, server.grpc_url), (call_http, server.http_url)):
        answer = call(url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
        assert answer["OUTPUT_SEED"].tolist() == [seed]
        difference = np.abs(pixels(answer["OUTPUT_IMAGE"][0]) - expected.rgb)
        assert difference.shape == expected.rgb.shape
        assert difference.max() <= 1

    assert np.abs(latents_of(server, tensors) - expected.latents).max() <= LATENT_TOLERANCE


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (96, 64)])
def test_demo_checkpoint_matches_diffusers(
    demo_server: TritonServer, demo_stock: StockDiffusers, height: int, width: int, steps: int
) -> None:
    check_parity(demo_server, demo_stock, height=height, width=width, steps=steps)


@pytest.mark.parametrize("steps", [3, 11])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 72), (96, 96)])
def test_other_architecture_matches_diffusers(
    random_server: TritonServer, random_stock: StockDiffusers, height: int, width: int, steps: int
) -> None:
    check_parity(random_server, random_stock, height=height, width=width, steps=steps)


WHICH = [("demo_server", "demo_stock"), ("random_server", "random_stock")]


@pytest.mark.parametrize(("server", "stock"), WHICH)
def test_image_with_prompt_matches_diffusers(server: str, stock: str, request: pytest.FixtureRequest) -> None:
    prompt = "a red apple with a green tree"
    check_parity(*map(request.getfixturevalue, (server, stock)), height=48, width=64, steps=5, prompt=prompt)


@pytest.mark.parametrize(("server", "stock"), WHICH)
def test_prompt_with_image_of_weight_0_is_text_to_image(
    server: str, stock: str, request: pytest.FixtureRequest
) -> None:
    prompt, knobs = "a green house", {"height": 64, "width": 48, "seed": 9}
    flux: StockDiffusers = request.getfixturevalue(stock)
    expected = flux.drawing(prompt, height=64, width=48, steps=6, guidance=2.0, seed=9)
    tensors = tensors_of(
        [encoded(drawn_image(3))], prompt=prompt, strengths=[0.0], num_inference_steps=6, guidance_scale=2.0, **knobs
    )
    check_answers(request.getfixturevalue(server), tensors, expected, seed=9)


def test_each_of_several_variations_equals_a_single_run_with_its_seed(demo_server: TritonServer) -> None:
    image = encoded(drawn_image(7))
    together = call_grpc(
        demo_server.grpc_url,
        "flux_redux",
        tensors_of([image], num_inference_steps=4, num_images=3, seed=70),
        ["OUTPUT_IMAGE", "OUTPUT_SEED"],
    )
    assert together["OUTPUT_SEED"].tolist() == [70, 71, 72]
    for variation, seed in zip(together["OUTPUT_IMAGE"], (70, 71, 72), strict=True):
        alone = call_grpc(
            demo_server.grpc_url,
            "flux_redux",
            tensors_of([image], num_inference_steps=4, seed=seed),
            ["OUTPUT_IMAGE", "OUTPUT_SEED"],
        )
        assert np.abs(pixels(variation) - pixels(alone["OUTPUT_IMAGE"][0])).max() <= 1


@pytest.mark.parametrize("which", ["demo_server", "random_server"])
def test_the_image_matters_far_beyond_the_tolerance(which: str, request: pytest.FixtureRequest) -> None:
    """Without this check, a context that never reaches the transformer would go unnoticed."""
    server: TritonServer = request.getfixturevalue(which)
    one, other = (
        latents_of(server, tensors_of([encoded(drawn_image(seed))], num_inference_steps=8)) for seed in (1, 2)
    )
    assert np.abs(one - other).max() > 100 * LATENT_TOLERANCE
