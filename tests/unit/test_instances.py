"""The device of each instance, and how the client and the gateway report it."""

from __future__ import annotations

import asyncio
import importlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import fake_triton

fake_triton.install()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import ExifTags, Image  # noqa: E402

from asking import gateway  # noqa: E402
from flux_client import AsyncFluxClient, FluxClient, GenerationFailed, InstanceLoad, Overloaded, RetryPolicy  # noqa: E402
from flux_client.fake import AsyncFakeTransport, FakeTransport  # noqa: E402
from flux_client.image_result import ImageResult  # noqa: E402
from flux_client.request import Request  # noqa: E402
from flux_client.transport import Answer  # noqa: E402
from flux_contract.errors import CannotStart, InvalidRequest  # noqa: E402
from flux_contract.internal_tensors import JOBS, QUERY, ROOM  # noqa: E402
from flux_contract.models import FLUX_BASE, FLUX_STATUS, MODELS  # noqa: E402
from flux_gateway.genserve.routes import UNKNOWN_GPU, gpu_of  # noqa: E402
from flux_gateway.server_monitor import ServerMonitor  # noqa: E402
from flux_serving.backend import instance  # noqa: E402
from flux_serving.backend.instance import Instance  # noqa: E402
from flux_serving.network.weights import open_device  # noqa: E402

GPU_MODELS = [model.name for model in MODELS if model.needs_gpu]


def arguments(device_id: int, name: str = "flux_base_0_0", kind: str = "GPU") -> dict[str, str]:
    """Returns Triton's arguments of `initialize`."""
    return {
        "model_instance_kind": kind,
        "model_instance_name": name,
        "model_instance_device_id": str(device_id),
        "model_config": "{}",
    }


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the process, which is the whole test run's here.
    monkeypatch.setattr(instance, "end_with_parent", lambda: None)


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("gpu", [0, 3, 7, 8])
def test_an_instance_runs_on_the_gpu_that_triton_assigns_to_it(gpu: int) -> None:
    assert Instance.start(FLUX_BASE, arguments(gpu)).device == f"cuda:{gpu}"


@pytest.mark.usefixtures("started")
def test_instances_of_one_group_have_different_names() -> None:
    """Triton gives all instances of a group the same name, which would merge their metrics and their work."""
    started = [Instance.start(FLUX_BASE, arguments(gpu, name="flux_base_0_0")) for gpu in (7, 8)]
    assert [each.name for each in started] == ["flux_base_0_0_gpu7", "flux_base_0_0_gpu8"]


@pytest.mark.usefixtures("started")
def test_instance_without_gpu_runs_on_cpu() -> None:
    started = Instance.start(FLUX_BASE, arguments(0, name="flux_base_0_1", kind="CPU"))
    assert (started.name, started.device) == ("flux_base_0_1", "cpu")


@pytest.mark.parametrize(
    ("count", "gpu", "words"),
    [
        (2, 7, "GPU 7 not found: torch finds 2 GPUs, numbered from 0; "),
        (1, 1, "GPU 1 not found: torch finds 1 GPU, numbered from 0; "),
        (0, 7, "GPU 7 not found: torch finds no GPU; "),
    ],
)
def test_error_names_missing_gpu_and_what_to_change(
    monkeypatch: pytest.MonkeyPatch, count: int, gpu: int, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(CannotStart) as caught:
        open_device(f"cuda:{gpu}")
    assert str(caught.value).startswith(words)
    assert "--gpus" in str(caught.value)
    assert "FLUX_REDUX_GPUS" in str(caught.value)


def test_available_gpu_becomes_current_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 9)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert open_device("cuda:8") == torch.device("cuda", 8)
    assert current == [torch.device("cuda", 8)]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("model", GPU_MODELS)
def test_missing_gpu_stops_models_before_loading_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    """Runs without checkpoints, whose absence would be another error."""
    for name in ("FLUX_MODEL_PATH", "FLUX_REDUX_MODEL_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLUX_SERVER_FOLDER", str(tmp_path / "server"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    module = importlib.import_module(f"flux_serving.backend.{model}")
    (made,) = (value for name, value in vars(module).items() if name.endswith("Model") and name != "Model")
    with pytest.raises(CannotStart, match="GPU 7 not found"):
        made(arguments(7, name=f"{model}_0_0"))


# Status reported to clients


class Told(FakeTransport):
    """Answers flux_status with `outputs`, or raises it."""

    def __init__(self, outputs: Answer | Exception, is_there: bool = True) -> None:
        super().__init__()
        self.asked: list[Request] = []
        self._outputs = outputs
        self._is_there = is_there

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        if request.model != FLUX_STATUS.name:
            return super().infer(request, timeout_s, request_id)
        self.asked.append(request)
        if isinstance(self._outputs, Exception):
            raise self._outputs
        return self._outputs

    def is_ready(self, model: str, timeout_s: float) -> bool:
        return super().is_ready(model, timeout_s) and (model != FLUX_STATUS.name or self._is_there)


class AsyncTold(AsyncFakeTransport):
    def __init__(self, outputs: Answer | Exception, is_there: bool = True) -> None:
        super().__init__()
        self.fake = Told(outputs, is_there)


OUTPUTS = {
    "INSTANCE": np.array([[b"flux_base_0_0_gpu7", b"flux_base_0_0_gpu8"]], dtype=object),
    "DEVICE": np.array([[b"cuda:7", b"cuda:8"]], dtype=object),
    "SECONDS_LEFT": np.array([[12.34567, 0.0]], dtype=np.float32),
    "JOBS": np.array([[3, 0]], dtype=np.int32),
    "ROOM": np.array([[61, 64]], dtype=np.int32),
}
NONE = {name: array[:, :0] for name, array in OUTPUTS.items()}


def seen_by_the_gateway(transport: AsyncFakeTransport) -> ServerMonitor:
    """Returns the state after one check."""
    monitor = ServerMonitor(AsyncFluxClient(transport=transport, retry=RetryPolicy(attempts=1)))
    asyncio.run(monitor.look())
    return monitor


def test_client_returns_work_of_each_instance() -> None:
    transport = Told(OUTPUTS)
    with FluxClient(transport=transport) as client:
        first, second = client.instances()
    assert (first.name, first.device, first.jobs, first.room) == ("flux_base_0_0_gpu7", "cuda:7", 3, 61)
    assert first.seconds_left == pytest.approx(12.34567)
    assert second == InstanceLoad("flux_base_0_0_gpu8", "cuda:8", 0.0, 0, 64)
    assert [request.inputs[QUERY.name].tolist() for request in transport.asked] == [[[b"load"]]]


def test_async_client_returns_work_of_each_instance() -> None:
    async def asked() -> list[InstanceLoad]:
        async with AsyncFluxClient(transport=AsyncTold(OUTPUTS)) as client:
            return await client.instances()

    with FluxClient(transport=Told(OUTPUTS)) as client:
        assert asyncio.run(asked()) == client.instances()


def test_instances_are_empty_if_none_is_alive() -> None:
    with FluxClient(transport=Told(NONE)) as client:
        assert client.instances() == []


def test_server_without_flux_status_lists_no_instances() -> None:
    transport = Told(AssertionError("it was asked"), is_there=False)
    with FluxClient(transport=transport) as client:
        assert client.instances() == []


@pytest.mark.parametrize("outputs", [{}, {**OUTPUTS, "ROOM": OUTPUTS["ROOM"][:, :1]}])
def test_response_of_unexpected_shape_is_server_error(outputs: Answer) -> None:
    with FluxClient(transport=Told(outputs)) as client, pytest.raises(GenerationFailed, match="flux_status"):
        client.instances()


def test_the_fake_server_has_one_idle_instance() -> None:
    transport = FakeTransport()
    with FluxClient(transport=transport) as client:
        assert client.instances() == [InstanceLoad("flux_base_0_0", "cpu", 0.0, 0, 64)]
    assert transport.sent == []


def test_status_lists_instances_of_last_check() -> None:
    transport = AsyncTold(OUTPUTS)

    async def asked() -> dict[str, Any]:
        async with gateway(transport) as caller:
            for _ in range(100):
                before = len(transport.fake.asked)
                answers = [(await caller.get("/status")).json() for _ in range(10)]
                assert len(transport.fake.asked) <= before + 1, "each request asks the server"
                if answers[-1]["instances"]:
                    break
                await asyncio.sleep(0.05)
            answer: dict[str, Any] = answers[-1]
            return answer

    answer = asyncio.run(asked())
    assert answer["status"] == "running"
    assert answer["instances"] == [
        {"name": "flux_base_0_0_gpu7", "device": "cuda:7", "seconds_left": 12.346, "jobs": 3, "room": 61},
        {"name": "flux_base_0_0_gpu8", "device": "cuda:8", "seconds_left": 0.0, "jobs": 0, "room": 64},
    ]


@pytest.mark.parametrize(
    "transport",
    [
        lambda: AsyncTold(OUTPUTS, is_there=False),
        lambda: AsyncTold(InvalidRequest("Request for unknown model: 'flux_status' is not found")),
        lambda: AsyncTold(Overloaded("full")),
    ],
)
def test_gateway_serves_without_known_instances(transport: Any) -> None:
    monitor = seen_by_the_gateway(transport())
    assert (monitor.reason, monitor.instances) == (None, [])


def test_gateway_forgets_instances_of_unreachable_server() -> None:
    transport = AsyncTold(OUTPUTS)
    monitor = seen_by_the_gateway(transport)
    assert len(monitor.instances) == 2
    transport.fake.ready = False
    asyncio.run(monitor.look())
    assert monitor.instances == []


def image_with(recipe: object, image_format: str = "PNG") -> ImageResult:
    exif = Image.Exif()
    if recipe is not None:
        exif[ExifTags.Base.ImageDescription] = recipe if isinstance(recipe, str) else json.dumps(recipe)
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, image_format, exif=exif)
    return ImageResult(buffer.getvalue(), seed=1)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("device", ["cuda:7", "cpu"])
def test_gpu_id_is_the_device_in_the_recipe(device: str, image_format: str) -> None:
    assert gpu_of(image_with({"seed": 1, "device": device}, image_format)) == device


@pytest.mark.parametrize("recipe", [None, "a photo", {"seed": 1}, {"device": 7}, {"device": ""}, {"device": None}])
def test_gpu_id_of_image_without_device_is_constant(recipe: object) -> None:
    assert gpu_of(image_with(recipe)) == UNKNOWN_GPU == "triton"


def test_generate_returns_device_of_image() -> None:
    class OnGpu8(AsyncFakeTransport):
        def stream(self, request: Request, timeout_s: float, request_id: str) -> Any:
            answers = super().stream(request, timeout_s, request_id)
            told = answers.fake._answers
            image = np.array([[image_with({"device": "cuda:8"}).data]], dtype=object)
            answers.fake._answers = (
                {**answer, "OUTPUT_IMAGE": image} if "OUTPUT_IMAGE" in answer else answer for answer in told
            )
            return answers

    async def asked() -> Any:
        async with gateway(OnGpu8()) as caller:
            return (await caller.post("/generate", json={"prompt": "a"})).json()

    assert asyncio.run(asked())["gpu_id"] == "cuda:8"


@pytest.mark.parametrize("tensor", [JOBS, ROOM])
def test_tensor_array_of_no_values_is_empty_and_typed(tensor: Any) -> None:
    """flux_status returns empty arrays if no instance of flux_base is alive."""
    assert (tensor.array([]).dtype, tensor.array([]).shape) == (np.int32, (0,))
