"""Faults at any call between `execute` and the response: every request is answered exactly once.

The models run in this process, with the demo checkpoint, on a fake of Triton's Python API. A first run of each request
records every call; these are the places of the faults. With `--fault-stride 1`, each of them fails once; by default,
every eighth one.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_triton

fake_triton.install()

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from conftest import DEMO  # noqa: E402
from faults import Injector, Place  # noqa: E402
from flux_contract.models import MODELS  # noqa: E402
from flux_serving.backend import health, instance, work_sharing  # noqa: E402
from flux_serving.backend.progress_channel import ProgressFolder, ProgressMessage  # noqa: E402
from images import drawn_image, encoded  # noqa: E402
from raw import tensors_of  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # A fault may end a thread, and leave a socket to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

IMAGE = encoded(drawn_image(1))
ARGS = {
    "model_instance_kind": "CPU",
    "model_instance_name": "a_0_0",
    "model_instance_device_id": "0",
    "model_config": "{}",
}
MODULES = {model.name: importlib.import_module(f"flux_serving.backend.{model.name}") for model in MODELS}
#: Parts that are slow to create and keep no state of a request.
LOADERS = ("load_base", "load_prior", "load_vae_encoder", "Sampler", "Previewer")


class Interruption(BaseException):
    """An exception that `except Exception` does not catch, like KeyboardInterrupt."""


FAULTS: tuple[Callable[[], BaseException], ...] = (
    lambda: RuntimeError("a fault with a name that cannot be encoded: \udcc3\udcbc.safetensors"),
    lambda: MemoryError("a fault"),
    lambda: Interruption("a fault"),
)


@dataclass(frozen=True)
class Case:
    """One request to one model. ensemble: the result of the ensemble that the model calls, if it calls one.

    siblings: names of other instances of the model.
    """

    model: str
    inputs: Mapping[str, np.ndarray]
    is_good: bool = True
    outputs: tuple[str, ...] = ()
    ensemble: Callable[[Any], Any] | None = None
    siblings: tuple[str, ...] = ()


class Lab:
    """Creates models and sends requests to them. Weights are read once."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
        """stride: 1 tests every place, n every nth."""
        self.stride = stride
        for name, value in {**DEMO.as_environment(), "FLUX_SERVER_FOLDER": str(folder / "progress")}.items():
            monkeypatch.setenv(name, value)
        for module in MODULES.values():
            for loader in LOADERS:
                if hasattr(module, loader):
                    monkeypatch.setattr(module, loader, _cached(loader, getattr(module, loader)))
        # These act on the whole process, which here is the test run.
        monkeypatch.setattr(instance, "end_with_parent", lambda: None)
        monkeypatch.setattr(MODULES["flux_base"], "_SWITCH_INTERVAL_S", sys.getswitchinterval())
        monkeypatch.setattr(health, "_ANSWER_S", 0.0)
        self.injector = Injector()
        self.progress_folder = ProgressFolder(folder / "progress")
        self.progress_folder.make()

    def ask(self, case: Case, place: Place | None = None, fault: BaseException | None = None) -> fake_triton.Request:
        """Send the request and return it with all its answers. Raises AssertionError: it was not answered."""
        # Not undone after the test: the thread that exits the process can outlive it.
        health.HEALTH.__init__(lambda status: None)  # type: ignore[misc]
        contract = next(model for model in MODELS if model.name == case.model)
        module = MODULES[case.model]
        (made,) = (value for name, value in vars(module).items() if name.endswith("Model") and name != "Model")
        if case.ensemble is not None:
            fake_triton.InferenceRequest.outcome = staticmethod(case.ensemble)
        outputs = case.outputs or [tensor.name for tensor in contract.outputs]
        request = fake_triton.Request(case.inputs, outputs, "a request")
        self.injector.install()
        try:
            siblings = [made(ARGS | {"model_instance_name": name}) for name in case.siblings]
            model = made(ARGS)
            if place is None:
                self.injector.recording = {}
            else:
                assert fault is not None
                self.injector.arm(place, fault)
            fake_triton.execute(model, [request])
            assert request.ended.wait(20), f"no answer after a fault at {place}"
            self.injector.armed = None
        finally:
            self.injector.remove()
        for made_model in (model, *siblings):
            made_model.close()
        return request

    def places(self, case: Case) -> list[Place]:
        (*_, last) = self.ask(case).answers
        assert last is not None
        assert is_error(last) != case.is_good
        places = list(self.injector.recording or ())
        self.injector.recording = None
        return places


def is_error(response: fake_triton.InferenceResponse) -> bool:
    """Whether the response is an error or carries one in an output."""
    refusals = (tensor for tensor in response.output_tensors() if tensor.name().endswith("REFUSAL"))
    return response.has_error() or any(tensor.as_numpy()[0, 0] for tensor in refusals)


_LOADED: dict[str, Any] = {}
_TRIED: set[tuple[str, Place]] = set()


def _cached(name: str, load: Callable[..., Any]) -> Callable[..., Any]:
    """The same weights for every model of the run."""

    def once(*arguments: Any) -> Any:
        if name not in _LOADED:
            _LOADED[name] = load(*arguments)
        return _LOADED[name]

    return once


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Lab]:
    made = Lab(tmp_path, monkeypatch, pytestconfig.getoption("--fault-stride"))
    yield made
    made.injector.remove()
    # Collect the garbage that faults leave behind here, not during later tests.
    gc.collect()


def _context(lab: Lab) -> dict[str, np.ndarray]:
    """Returns the tensors that flux_prior_redux passes on."""
    (answer,) = lab.ask(Case("flux_prior_redux", tensors_of([IMAGE]))).answers
    assert answer is not None
    return {tensor.name(): tensor.as_numpy() for tensor in answer.output_tensors() if tensor.name() != "REFUSAL"}


def _text(value: str) -> np.ndarray:
    return _array(value.encode())


def _array(value: bytes) -> np.ndarray:
    return np.array([[value]], dtype=object)


def _number(value: int) -> np.ndarray:
    return np.array([[value]], np.int32)


PIXELS = np.zeros((1, 2, 64, 64, 3), np.uint8)
STREAM = {"IMAGE": _array(IMAGE), "STREAM_TOKEN": _text("t" * 22)}
SIMPLE = {
    "flux_prior_redux": Case("flux_prior_redux", tensors_of([IMAGE], prompt="a red disc")),
    "flux_prior_redux, refused": Case("flux_prior_redux", tensors_of([b"no image"]), is_good=False),
    "flux_vae_encoder": Case("flux_vae_encoder", {"IMAGE": _array(IMAGE)}),
    "flux_vae_encoder, refused": Case("flux_vae_encoder", {"IMAGE": _array(b"no image")}, is_good=False),
    "canny_edges": Case("canny_edges", {"CONTROL_IMAGE": _array(IMAGE)}),
    "canny_edges, refused": Case("canny_edges", {"CONTROL_IMAGE": _array(b"no image")}, is_good=False),
    "image_encode": Case("image_encode", {"PIXELS": PIXELS, "OUTPUT_FORMAT": _text("webp;base64")}),
    "flux_status": Case("flux_status", {"QUERY": _text("load")}),
    "flux_status, refused": Case("flux_status", {"QUERY": _text("weather")}, is_good=False),
    "image_encode, refused": Case("image_encode", {"PIXELS": PIXELS, "OUTPUT_FORMAT": _text("tga")}, is_good=False),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_fault_at_any_call_of_model_gives_one_response(lab: Lab, name: str) -> None:
    assert_one_answer_each(lab, SIMPLE[name])


@pytest.mark.parametrize("name", ["plain", "streamed", "adapter", "unchanged", "refused", "refused by the prior"])
def test_fault_at_any_call_of_flux_base_gives_one_response(lab: Lab, name: str) -> None:
    given = _context(lab) | {"NUM_INFERENCE_STEPS": _number(2), "HEIGHT": _number(64), "WIDTH": _number(64)}
    receiver = lab.progress_folder.listen()
    special = {
        "plain": {"NUM_IMAGES": _number(2)},
        "streamed": {"PROGRESS_ADDRESS": _text(receiver.address), "PREVIEW_STEPS": _number(1)},
        "adapter": {"LORA": _text("greyscale")},
        "unchanged": {
            "STRENGTH": np.zeros((1, 1), np.float32),
            "SOURCE_LATENTS": np.zeros((1, 1, 1), np.float32),
            "SOURCE_PIXELS": np.zeros((1, 64, 64, 3), np.uint8),
        },
        "refused": {"HEIGHT": _number(17)},
        "refused by the prior": {"REFUSAL": _text("flux_prior_redux: IMAGE: \N{SNOWMAN} (INVALID_ARG)")},
    }
    outputs = ("PIXELS",) if name == "unchanged" else ()
    case = Case("flux_base", given | special[name], is_good=not name.startswith("refused"), outputs=outputs)
    assert_one_answer_each(lab, case)
    receiver.close()


@pytest.mark.parametrize("is_good", [True, False])
def test_fault_at_any_call_of_handover_gives_one_response(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    def choose_another(own: str, backlogs: Mapping[str, object], *_: object) -> str:
        return next(name for name in backlogs if name != own)

    monkeypatch.setattr(work_sharing, "choose_instance", choose_another)
    given = _context(lab) | {"NUM_INFERENCE_STEPS": _number(2), "HEIGHT": _number(64), "WIDTH": _number(64)}
    if not is_good:
        given["LORA"] = _text("no such adapter")
    assert_one_answer_each(lab, Case("flux_base", given, is_good=is_good, siblings=("a_0_1",)))


@pytest.mark.parametrize("name", ["good", "failing", "stopping", "refused", "cancelling"])
def test_fault_at_any_call_of_flux_stream_gives_one_response(lab: Lab, name: str) -> None:
    def made(call: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in call.given["inputs"]}
        sender = lab.progress_folder.connect(inputs["PROGRESS_ADDRESS"][0, 0].decode())
        sender.send(ProgressMessage(0, 1, 2))
        sender.close()
        if name in ("failing", "stopping"):
            words = "flux_base: no (INVALID_ARG)" if name == "failing" else "Server not ready"
            return fake_triton.InferenceResponse(error=fake_triton.TritonError(words))
        return fake_triton.InferenceResponse([fake_triton.Tensor("OUTPUT_SEED", np.zeros((1, 1), np.int64))])

    inputs: dict[str, np.ndarray] = STREAM
    if name == "refused":
        inputs = STREAM | {"MODE": _text("video")}
    elif name == "cancelling":
        inputs = {"CANCEL": _text("t" * 22)}
    assert_one_answer_each(lab, Case("flux_stream", inputs, is_good=name == "good", ensemble=made))


def assert_one_answer_each(lab: Lab, case: Case) -> None:
    """After a fault at each place that the case passes, there is exactly one final response."""
    places = lab.places(case)
    assert len(places) > 5
    # Each place fails only once, in the first case that passes it.
    new = [place for place in places if (case.model, place) not in _TRIED]
    _TRIED.update((case.model, place) for place in new)
    new = new[:: lab.stride]
    faults = itertools.cycle(FAULTS)
    hits = errors = 0
    for place, fault in zip(new, faults, strict=False):
        request = lab.ask(case, place, fault())
        assert request.answered_after_the_end == 0, place
        last = request.answers[-1]
        hits += lab.injector.hit
        errors += last is not None and is_error(last)
    print(f"{case.model}: {len(places)} places, {len(new)} new, {hits} faults, {errors} errors")
    # Threads do not pass all places in every run, and faults in logging, metrics and previews cause no error.
    assert hits >= 0.8 * len(new) - 1
    assert errors >= 0.1 * hits - 1
