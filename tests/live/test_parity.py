"""The promise: what Triton answers is what stock diffusers gives for the same inputs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from conftest import DEMO
from flux_serving.launch.server import TritonServer
from flux_serving.settings import Checkpoints
from pictures import drawn_picture, encoded
from raw import call_grpc, call_http, tensors_of
from reference import StockDiffusers

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def demo_stock() -> StockDiffusers:
    return StockDiffusers(DEMO)


@pytest.fixture(scope="module")
def random_stock(random_checkpoints: Checkpoints) -> StockDiffusers:
    return StockDiffusers(random_checkpoints)


def pixels(encoded_picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded_picture))).astype(int)


CONTEXT = ["CONTEXT", "CONTEXT_WEIGHTS", "POOLED_PROJECTION"]


def check_parity(
    server: TritonServer, stock: StockDiffusers, *, height: int, width: int, steps: int, **more: str
) -> None:
    picture, seed, guidance = drawn_picture(seed=height + steps), 1000 + width, 3.0
    expected = stock.variation(picture, height=height, width=width, steps=steps, guidance=guidance, seed=seed, **more)
    knobs = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": guidance, "seed": seed}
    tensors = tensors_of([encoded(picture)], **more, **knobs)

    for call, url in ((call_grpc, server.grpc_url), (call_http, server.http_url)):
        answer = call(url, "flux_redux", tensors, ["OUTPUT_IMAGE", "OUTPUT_SEED"])
        assert answer["OUTPUT_SEED"].tolist() == [seed]
        difference = np.abs(pixels(answer["OUTPUT_IMAGE"][0]) - expected.rgb)
        assert difference.shape == (height, width, 3)
        assert difference.max() <= 1

    prior_tensors = {name: tensors[name] for name in ("IMAGE", "PROMPT") if name in tensors}
    context = call_grpc(server.grpc_url, "flux_prior_redux", prior_tensors, CONTEXT)
    base_tensors = {name: values for name, values in tensors.items() if name not in prior_tensors}
    base_tensors |= {name: values[None] for name, values in context.items()}
    latents = call_grpc(server.grpc_url, "flux_base", base_tensors, ["LATENTS"])["LATENTS"][0]
    assert np.abs(latents - expected.latents).max() <= 1e-4


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (96, 64)])
def test_demo_checkpoint_gives_what_diffusers_gives(
    demo_server: TritonServer, demo_stock: StockDiffusers, height: int, width: int, steps: int
) -> None:
    check_parity(demo_server, demo_stock, height=height, width=width, steps=steps)


@pytest.mark.parametrize("steps", [3, 11])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 72), (96, 96)])
def test_another_architecture_gives_what_diffusers_gives(
    random_server: TritonServer, random_stock: StockDiffusers, height: int, width: int, steps: int
) -> None:
    check_parity(random_server, random_stock, height=height, width=width, steps=steps)


def test_a_prompt_beside_the_picture_gives_what_diffusers_gives(
    random_server: TritonServer, random_stock: StockDiffusers
) -> None:
    check_parity(random_server, random_stock, height=48, width=64, steps=5, prompt="a red apple with a green tree")


def test_each_of_several_variations_equals_a_single_run_with_its_seed(demo_server: TritonServer) -> None:
    picture = encoded(drawn_picture(7))
    together = call_grpc(
        demo_server.grpc_url,
        "flux_redux",
        tensors_of([picture], num_inference_steps=4, num_images=3, seed=70),
        ["OUTPUT_IMAGE", "OUTPUT_SEED"],
    )
    assert together["OUTPUT_SEED"].tolist() == [70, 71, 72]
    for image, seed in zip(together["OUTPUT_IMAGE"], (70, 71, 72), strict=True):
        alone = call_grpc(
            demo_server.grpc_url,
            "flux_redux",
            tensors_of([picture], num_inference_steps=4, seed=seed),
            ["OUTPUT_IMAGE", "OUTPUT_SEED"],
        )
        assert np.abs(pixels(image) - pixels(alone["OUTPUT_IMAGE"][0])).max() <= 1


@pytest.mark.parametrize("which", ["demo_server", "random_server"])
def test_the_picture_matters(which: str, request: pytest.FixtureRequest) -> None:
    """Without this, a context that never reaches the transformer could pass for exact."""
    server: TritonServer = request.getfixturevalue(which)
    answers = [
        call_grpc(
            server.grpc_url,
            "flux_redux",
            tensors_of([encoded(drawn_picture(seed))], num_inference_steps=8),
            ["OUTPUT_IMAGE", "OUTPUT_SEED"],
        )["OUTPUT_IMAGE"][0]
        for seed in (1, 2)
    ]
    assert np.abs(pixels(answers[0]) - pixels(answers[1])).mean() > 5
