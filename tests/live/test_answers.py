"""Every request gets a response whatever fails in a model, and a model's process that cannot continue ends.

The tests share one server, whose paths all contain non-ASCII characters. It serves a copy of the model repository in
which each `model.py` loads its model through `faulty_model`, which fails at the place named by a request's id.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from conftest import DEMO, ROOT, start_server
from flux_client import FluxClient, GenerationFailed, ImageResult, InvalidRequest, Overloaded, RetryPolicy
from flux_contract.models import MODELS
from flux_serving.launch.server import ModelDied, TritonServer
from images import drawn_image, encoded

pytestmark = pytest.mark.live

IMAGE = encoded(drawn_image(1))
ONCE = RetryPolicy(attempts=1)
#: Seconds after which a response counts as missing; a busy machine needs a few.
PATIENCE_S = 30.0
NAME = "Modèle 画"
DOORWAY = """
import sys

sys.path.insert(0, {tests!r})


class TritonPythonModel:
    def initialize(self, args):
        from faulty_model import open_model

        self._model = open_model({module!r}, args)

    def execute(self, requests):
        return self._model.execute(requests)

    def finalize(self):
        self._model.close()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("answers") / NAME
    repository = folder / "model_repository"
    shutil.copytree(ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__"))
    for model in MODELS:
        doorway = DOORWAY.format(tests=str(ROOT / "tests"), module=f"flux_serving.backend.{model.name}")
        (repository / model.name / "1" / "model.py").write_text(doorway)
    assert DEMO.loras is not None
    (folder / "loras").mkdir()
    shutil.copy(DEMO.loras / "greyscale.safetensors", folder / "loras" / "ü 画.safetensors")
    shutil.copy(DEMO.loras / "greyscale.safetensors", (folder / "loras").as_posix() + "/plain.safetensors")
    for name in ("base", "redux", "controlnet"):
        (folder / name).mkdir()
        for part in getattr(DEMO, name).iterdir():
            (folder / name / part.name).symlink_to(part)
    checkpoints = replace(
        DEMO,
        base=folder / "base",
        redux=folder / "redux",
        controlnet=folder / "controlnet",
        loras=folder / "loras",
    )
    yield from start_server(checkpoints, folder / "triton.log", repository=repository)


@pytest.fixture
def client(server: TritonServer) -> Iterator[FluxClient]:
    with FluxClient(server.grpc_url, timeout_s=PATIENCE_S, retry=ONCE) as opened:
        yield opened


def images_of(client: FluxClient, **knobs: Any) -> list[ImageResult]:
    return client.redux(IMAGE, num_inference_steps=1, **knobs)


def test_paths_that_are_not_ascii_serve_every_mode(client: FluxClient) -> None:
    assert images_of(client, prompt="a red disc")
    assert client.img2img(IMAGE, strength=0.5, num_inference_steps=2)
    assert client.canny(IMAGE, prompt="a red disc", num_inference_steps=1)


def test_adapter_with_non_ascii_name_is_listed_and_usable(client: FluxClient) -> None:
    plain, umlaut = (images_of(client, lora=name, seed=1) for name in ("plain", "ü 画"))
    assert plain[0].data == umlaut[0].data or plain[0].image.tobytes() == umlaut[0].image.tobytes()
    for ask in (
        lambda: images_of(client, lora="missing"),
        lambda: list(client.stream(IMAGE, lora="missing", num_inference_steps=1)),
    ):
        with pytest.raises(InvalidRequest, match="LORA='missing', expected one of: plain, ü 画"):
            ask()


@pytest.mark.parametrize("name", ["\x00", "a" * 100_000, "画" * 300, "\N{PILE OF POO}" * 50, "../x", "'(INTERNAL)"])
def test_any_adapter_name_gets_a_response(client: FluxClient, name: str) -> None:
    with pytest.raises(InvalidRequest, match="LORA"):
        images_of(client, lora=name)


#: A mode that uses each model, and the places of `faulty_model` at which its request fails.
READING = ("read", "memory", "unencodable", "answer")
PLACES = {
    "flux_prior_redux": ("redux", READING),
    "flux_vae_encoder": ("img2img", READING),
    "canny_edges": ("canny", READING),
    "flux_base": ("redux", (*READING, "send", "engine")),
    "image_encode": ("redux", READING),
    "flux_stream": ("redux", (*READING, "send")),
}
_numbers = itertools.count(1000)


@pytest.mark.parametrize("model", PLACES)
def test_fault_in_model_is_one_error_and_next_request_is_served(client: FluxClient, model: str) -> None:
    """Returns the errors of the ensemble and of flux_stream, which calls it."""
    mode, places = PLACES[model]
    for place in places:
        for is_streamed in (False, True) if model != "flux_stream" else (True,):
            # A new image, which is not in the response cache.
            arguments: dict[str, Any] = {"images": drawn_image(next(_numbers)), "num_inference_steps": 2}
            if mode == "canny":
                arguments |= {"control_image": drawn_image(next(_numbers)), "prompt": "a disc"}
            options = {"request_id": f"fault {model} {place}"}
            if is_streamed:
                ask = partial(lambda **given: list(client.stream(**given)), mode=mode, **arguments, **options)
            else:
                ask = partial(getattr(client, mode), **arguments, **options)
            with pytest.raises((GenerationFailed, InvalidRequest)) as caught:
                ask()
            # An ensemble loses image_encode's code on the way to flux_stream.
            is_told = not (is_streamed and model == "image_encode")
            assert isinstance(caught.value, InvalidRequest) == (place == "unencodable" and is_told), caught.value
    assert images_of(client)


def test_disconnected_stream_frees_its_slot_even_if_model_never_responds(server: TritonServer) -> None:
    """Thirty streams, of which 24 may run at once, call a model that never responds."""
    with FluxClient(server.grpc_url, retry=ONCE, timeout_s=PATIENCE_S) as client:
        for number in range(30):
            image = drawn_image(100 + number)
            stream = client.stream(image, num_inference_steps=1, request_id="fault flux_base silence")
            time.sleep(0.1)
            stream.cancel()
        assert list(client.stream(IMAGE, num_inference_steps=1))


def test_lost_gpu_ends_model_process_after_its_responses(server: TritonServer) -> None:
    """Runs last: without flux_base the server cannot continue, and the launcher notices."""
    with FluxClient(server.grpc_url, retry=ONCE, timeout_s=PATIENCE_S) as client, ThreadPoolExecutor(3) as pool:
        others = [
            pool.submit(client.redux, IMAGE, num_inference_steps=100, height=512, width=512, num_images=8)
            for _ in range(2)
        ]
        time.sleep(2)
        with pytest.raises(GenerationFailed, match="unexpected RuntimeError; the server's log has the details"):
            images_of(client, request_id="fault flux_base cuda")
        for other in others:
            error = other.exception(PATIENCE_S)
            assert isinstance(error, (Overloaded, GenerationFailed)), repr(error)
    with pytest.raises(ModelDied):
        server.wait()
    # As the launcher does; otherwise Triton waits for the dead model.
    server.kill()
