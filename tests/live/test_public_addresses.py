"""Other machines can reach only the gateway, and get neither Triton's administrative APIs nor its own messages."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from flux_client import FluxClient, InvalidRequest, RetryPolicy
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from flux_serving.settings import Checkpoints
from flux_tools.demo.run import gateway_of
from images import drawn_image
from test_server_life import serve

pytestmark = pytest.mark.live

KEY = "a-key-for-this-test-alone"
ONCE = RetryPolicy(attempts=1)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/cudasharedmemory/status"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/flux_base/unload"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/logging"),
    ],
)
def test_administrative_apis_are_refused_over_http(demo_server: TritonServer, method: str, path: str) -> None:
    answer = httpx.request(method, f"http://{demo_server.http_url}{path}", content=b"{}")
    assert answer.status_code == 403
    assert "This API is restricted" in answer.text


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.register_system_shared_memory("x", "/x", 1),
        lambda client: client.get_model_repository_index(),
        lambda client: client.unload_model("flux_base"),
        lambda client: client.update_trace_settings(settings={"trace_file": "/tmp/x"}),
        lambda client: client.update_log_settings({"log_verbose_level": 1}),
    ],
)
def test_administrative_apis_are_refused_over_grpc(demo_server: TritonServer, call: Callable[[Any], Any]) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(demo_server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="This protocol is restricted"),
    ):
        call(client)


def test_the_demo_lists_its_adapter(demo_server: TritonServer) -> None:
    (port,) = free_ports(1)
    with gateway_of(demo_server.options, port) as gateway:
        assert httpx.get(f"{gateway.url}/loras").json() == {"loras": [{"name": "greyscale"}]}


class Served(NamedTuple):
    """Yields `scripts/serve` with a public gateway, and its log until it was ready."""

    process: subprocess.Popen[str]
    said: list[str]
    gateway_port: int
    triton_ports: tuple[int, int, int]


@pytest.fixture(scope="module")
def bare(random_checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Yields a server without text encoders and ControlNet."""
    base = tmp_path_factory.mktemp("bare") / "base"
    shutil.copytree(random_checkpoints.base, base, ignore=shutil.ignore_patterns(*Checkpoints.TEXT_PARTS))
    http, grpc, metrics, gateway = free_ports(4)
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", f"--gateway-port={gateway}"]
    variables = {
        "FLUX_MODEL_PATH": str(base),
        "FLUX_REDUX_MODEL_PATH": str(random_checkpoints.redux),
        "FLUX_LORAS_PATH": str(base),
        "FLUX_TRITON_KEY": KEY,
    }
    with serve("--gateway-host=0.0.0.0", *ports, **variables) as process:
        assert process.stdout is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        try:
            assert process.stdout.readline().startswith("ready: REST http://0.0.0.0:"), said
            yield Served(process, said, gateway, (http, grpc, metrics))
        finally:
            process.terminate()
            process.wait(60)
            reader.join(10)


def is_reachable(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, port)) == 0


def test_a_public_gateway_leaves_triton_on_loopback(bare: Served) -> None:
    assert is_reachable("127.0.0.2", bare.gateway_port)
    for port in bare.triton_ports:
        assert is_reachable("127.0.0.1", port)
        assert not is_reachable("127.0.0.2", port)


def test_the_operators_key_opens_the_administrative_apis(bare: Served) -> None:
    url = f"http://127.0.0.1:{bare.triton_ports[0]}/v2/repository/index"
    assert httpx.post(url).status_code == 403
    assert httpx.post(url, headers={"flux-triton-key": "another-key-for-this-test"}).status_code == 403
    index = httpx.post(url, headers={"flux-triton-key": KEY}).json()
    assert {model["name"] for model in index} & {"flux_text2img", "flux_canny"} == set()


def test_unserved_modes_are_not_offered(bare: Served) -> None:
    rest, triton = f"http://127.0.0.1:{bare.gateway_port}", f"127.0.0.1:{bare.triton_ports[1]}"
    until = time.monotonic() + 60
    while (health := httpx.get(f"{rest}/health")).status_code != 200 and time.monotonic() < until:
        time.sleep(0.2)
    assert health.json()["modes"] == ["redux", "img2img", "inpaint"]
    assert httpx.get(f"{rest}/status").json()["modes"] == ["redux", "img2img", "inpaint"]
    features = {
        model["model_id"]: model["supported_features"] for model in httpx.get(f"{rest}/models").json()["models"]
    }
    assert "flux1-canny-dev" not in features
    assert not [name for names in features.values() for name in names if name.startswith("text")]
    with FluxClient(triton, retry=ONCE) as client:
        assert client.ready_modes() == ["redux", "img2img", "inpaint"]
        assert client.redux(drawn_image(1), num_inference_steps=1)
        with pytest.raises(InvalidRequest, match="flux_text2img"):
            client.text2img("red apple")
        with pytest.raises(InvalidRequest, match="MODE='text2img': the base checkpoint has no text encoders"):
            list(client.stream(mode="text2img", prompt="red apple"))
        with pytest.raises(InvalidRequest, match="MODE='canny': this server has no ControlNet"):
            list(client.stream(mode="canny", control_image=drawn_image(1), prompt=""))


@pytest.mark.parametrize(
    "line",
    [
        "warning: FLUX_LORAS_PATH is unknown and ignored; did you mean FLUX_LORA_PATH?",
        "text2img is not served: the base checkpoint has no text encoders",
        "canny is not served: this server has no ControlNet; set FLUX_CONTROLNET_MODEL_PATH to its folder",
    ],
)
def test_launcher_reports_ignored_variables_and_unserved_modes(bare: Served, line: str) -> None:
    until = time.monotonic() + 10
    while f"scripts/serve: {line}\n" not in bare.said and time.monotonic() < until:
        time.sleep(0.1)
    assert f"scripts/serve: {line}\n" in bare.said


def test_rejects_public_address_for_embedded_triton(random_checkpoints: Checkpoints) -> None:
    variables = {
        "FLUX_MODEL_PATH": str(random_checkpoints.base),
        "FLUX_REDUX_MODEL_PATH": str(random_checkpoints.redux),
    }
    ports = [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), free_ports(), strict=True)]
    with serve("--triton-host=0.0.0.0", *ports, **variables) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--triton-host 0.0.0.0 would let other machines reach Triton" in said
    assert "accept the risk with --expose-vulnerable-triton" in said
