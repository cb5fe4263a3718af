"""Instances that a running server and its gateway report, and a GPU that this machine does not have."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import DEMO
from flux_client import FluxClient, ImageResult, InstanceLoad
from flux_client.fake import FakeTransport
from flux_contract.errors import CannotStart
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import ServerOptions, TritonServer
from images import drawn_image

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parent.parent.parent
IDLE = InstanceLoad("flux_base_0_0", "cpu", 0.0, 0, 64)


def wait_until_idle(client: FluxClient) -> list[InstanceLoad]:
    """Wait until the server is idle: another test may have left work."""
    limit = time.monotonic() + 30
    while (found := client.instances()) != [IDLE] and time.monotonic() < limit:
        time.sleep(0.2)
    return found


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_idle_server_reports_same_instance_as_fake_server(demo_server: TritonServer, protocol: Any) -> None:
    url = demo_server.grpc_url if protocol == "grpc" else demo_server.http_url
    with FluxClient(url, protocol=protocol) as real, FluxClient(transport=FakeTransport()) as fake:
        assert wait_until_idle(real) == fake.instances() == [IDLE]


def test_busy_instance_reports_its_images_and_remaining_time(demo_server: TritonServer) -> None:
    with FluxClient(demo_server.grpc_url) as client:
        wait_until_idle(client)
        with client.stream(drawn_image(1), num_images=3, num_inference_steps=100, height=256, width=256) as stream:
            next(iter(stream))
            limit = time.monotonic() + 10
            while (busy := client.instances()[0]).jobs == 0 and time.monotonic() < limit:
                time.sleep(0.05)
        assert (busy.name, busy.jobs, busy.room) == ("flux_base_0_0", 3, 61)
        assert 0 < busy.seconds_left < 100
        assert wait_until_idle(client) == [IDLE]


def test_gateway_reports_instances_and_device_of_image(gateway: Gateway) -> None:
    limit = time.monotonic() + 30
    while not (status := httpx.get(f"{gateway.url}/status").json())["instances"] and time.monotonic() < limit:
        time.sleep(0.2)
    (instance,) = status["instances"]
    assert instance.keys() == {"name", "device", "seconds_left", "jobs", "room"}
    assert (instance["name"], instance["device"]) == ("flux_base_0_0", "cpu")
    asked = {"prompt": "red apple", "height": 64, "width": 64, "num_inference_steps": 1}
    answer = httpx.post(f"{gateway.url}/generate", json=asked, timeout=60).json()
    assert answer["gpu_id"] == "cpu"
    recipe = ImageResult(base64.b64decode(answer["image_base64"]), answer["seed"]).recipe
    assert recipe is not None
    assert (recipe["instance"], recipe["device"]) == ("flux_base_0_0", "cpu")


def test_missing_gpu_prevents_start_and_is_named(tmp_path: Path) -> None:
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(), strict=True))
    options = ServerOptions(ROOT / "model_repository", DEMO, profile="gpu", gpus=(97, 98), **ports)
    with (
        (tmp_path / "triton.log").open("wb") as log,
        TritonServer(options, log) as server,
        pytest.raises(CannotStart, match="before it was ready"),
    ):
        server.wait_until_ready(60)
    assert "invalid or unsupported gpu id 97" in (tmp_path / "triton.log").read_text(errors="replace")
