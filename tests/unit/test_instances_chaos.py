"""Random requests to two instances of flux_base: each is answered once, with the same image as when it runs alone."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_triton

fake_triton.install()

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from conftest import DEMO  # noqa: E402
from flux_serving.backend import base_options, flux_base, flux_prior_redux, instance, work_sharing  # noqa: E402
from flux_serving.backend.progress_channel import ProgressFolder  # noqa: E402
from flux_serving.backend.sampling_options import read_sampling_parameters  # noqa: E402
from images import drawn_image, encoded  # noqa: E402
from raw import tensors_of  # noqa: E402

pytestmark = pytest.mark.slow

REQUESTS = 40
ARGS = {"model_instance_kind": "CPU", "model_instance_device_id": "0", "model_config": "{}"}
OUTPUTS = ["LATENTS", "OUTPUT_SEED"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgressFolder:
    made = ProgressFolder(tmp_path / "server")
    for name, value in {**DEMO.as_environment(), "FLUX_SERVER_FOLDER": str(made.path)}.items():
        monkeypatch.setenv(name, value)
    # Of the process, which is the whole test run's here.
    monkeypatch.setattr(instance, "end_with_parent", lambda: None)
    monkeypatch.setattr(flux_base, "_SWITCH_INTERVAL_S", sys.getswitchinterval())
    made.make()
    return made


@pytest.fixture
def contexts(folder: ProgressFolder) -> list[dict[str, np.ndarray]]:
    """Returns the prior's outputs for some images and prompts."""
    prior = flux_prior_redux.FluxPriorReduxModel(ARGS | {"model_instance_name": "prior"})
    names = ["CONTEXT", "CONTEXT_WEIGHTS", "POOLED_PROJECTION"]
    made = []
    for number in range(3):
        given = tensors_of([encoded(drawn_image(number))], prompt=("", "a red disc", "")[number])
        made.append(outputs_of(ask(prior, given, names)))
    prior.close()
    return made


@pytest.fixture
def models(folder: ProgressFolder) -> Iterator[list[flux_base.FluxBaseModel]]:
    made = [flux_base.FluxBaseModel(ARGS | {"model_instance_name": name}) for name in ("a", "b")]
    yield made
    for model in made:
        model.close()


def ask(model: Any, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> fake_triton.Request:
    request = fake_triton.Request(inputs, outputs, "a request")
    fake_triton.execute(model, [request])
    assert request.ended.wait(60)
    return request


def outputs_of(request: fake_triton.Request) -> dict[str, np.ndarray]:
    (answer,) = request.answers
    assert answer is not None
    assert not answer.has_error(), answer.error().message()  # type: ignore[union-attr]
    return {tensor.name(): tensor.as_numpy() for tensor in answer.output_tensors()}


def random_request(chance: random.Random, contexts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    def number(value: int, dtype: type = np.int32) -> np.ndarray:
        return np.array([[value]], dtype)

    request = contexts[chance.randrange(len(contexts))] | {
        "HEIGHT": number(chance.choice((64, 96))),
        "WIDTH": number(chance.choice((64, 96))),
        "NUM_INFERENCE_STEPS": number(chance.randint(1, 9)),
        "NUM_IMAGES": number(chance.choice((1, 1, 2))),
        "SEED": number(chance.randrange(1000), np.int64),
        "PRIORITY": number(chance.choice((-1, 0, 1))),
    }
    if chance.random() < 0.2:
        request["LORA"] = np.array([[b"greyscale"]], dtype=object)
    return request


def test_a_request_is_parsed_once(
    models: list[flux_base.FluxBaseModel], contexts: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes requests that another instance could run, and requests whose adapters are loaded first."""
    parsed: list[Any] = []

    def read(*given: Any) -> Any:
        parsed.append(read_sampling_parameters(*given))
        return parsed[-1]

    monkeypatch.setattr(base_options, "read_sampling_parameters", read)
    monkeypatch.setattr(work_sharing, "choose_instance", lambda own, *_: own)
    request = contexts[0] | {
        "NUM_INFERENCE_STEPS": np.array([[1]], np.int32),
        "SEED": np.array([[-1]], np.int64),
        "LORA": np.array([[b"greyscale"]], dtype=object),
    }
    found = outputs_of(ask(models[0], request, OUTPUTS))
    assert [parameters.seeds for parameters in parsed] == [tuple(found["OUTPUT_SEED"][0].tolist())]


def test_requests_at_random_through_two_instances(
    models: list[flux_base.FluxBaseModel],
    contexts: list[dict[str, np.ndarray]],
    folder: ProgressFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(5)
    requests = [random_request(chance, contexts) for _ in range(REQUESTS)]
    alone = [outputs_of(ask(models[0], request, OUTPUTS)) for request in requests]
    handed_over: list[str] = []

    def choose(own: str, backlogs: Mapping[str, Any], *_: object) -> str:
        chosen = chance.choice(sorted(backlogs))
        handed_over.extend([chosen] * (chosen != own))
        return chosen

    monkeypatch.setattr(work_sharing, "choose_instance", choose)
    leaving = set(chance.sample(range(REQUESTS), 10))

    def run(number: int) -> fake_triton.Request:
        request, receiver = requests[number], folder.listen()
        if number in leaving:
            request = request | {"PROGRESS_ADDRESS": np.array([[receiver.address.encode()]], dtype=object)}
        made = fake_triton.Request(request, OUTPUTS, str(number))
        fake_triton.execute(models[number % 2], [made])
        if number in leaving:
            time.sleep(0.01)
        receiver.close()
        assert made.ended.wait(60)
        return made

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(run, range(REQUESTS)))
    assert len(handed_over) > REQUESTS / 4
    assert not any(request.answered_after_the_end for request in together)
    for number, request in enumerate(together):
        (answer,) = request.answers
        assert answer is not None
        if number in leaving and answer.has_error():
            continue
        found = outputs_of(request)
        assert found["OUTPUT_SEED"].tolist() == alone[number]["OUTPUT_SEED"].tolist()
        np.testing.assert_allclose(found["LATENTS"], alone[number]["LATENTS"], atol=2e-4)
