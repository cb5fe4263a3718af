"""Claims of docs/operations.md: quoted messages are exact, adapters need no restart, and keys need one."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import DEMO, ROOT, start_server
from flux_client import FluxClient, FluxError, RetryPolicy
from flux_contract.errors import CannotStart
from flux_gateway.keys import new_key
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.settings import Checkpoints
from raw import engine_metrics, wait_until_healthy

pytestmark = pytest.mark.live

GUIDE = re.sub(r"```.*?```", "", (ROOT / "docs" / "operations.md").read_text(), flags=re.DOTALL)
QUOTED = {" ".join(words.split()) for _, words in re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", GUIDE, re.DOTALL)}
ONCE = RetryPolicy(attempts=1)


def quoted(beginning: str) -> str:
    """Returns the only message of the guide with this beginning."""
    (words,) = {words for words in QUOTED if words.startswith(beginning)}
    return words


def told(url: str, timeout_s: float = 60, **knobs: Any) -> str:
    """Returns the error of a failed request, in the guide's format."""
    with FluxClient(url, retry=ONCE) as client, pytest.raises(FluxError) as caught:
        client.text2img("red apple", timeout_s=timeout_s, **knobs)
    return f"{type(caught.value).__name__}: {caught.value}"


class Adapted:
    """Yields a server with its own folder of adapters, and its log."""

    def __init__(self, server: TritonServer, loras: Path, log: Path) -> None:
        self.server, self.loras, self.log = server, loras, log

    def draws(self, lora: str) -> bytes:
        with FluxClient(self.server.grpc_url) as client:
            (variation,) = client.text2img("red apple", lora=lora, num_inference_steps=2)
        return variation.data


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    folder = tmp_path_factory.mktemp("operations")
    loras, log = folder / "loras", folder / "triton.log"
    loras.mkdir()
    assert DEMO.loras is not None
    shutil.copy(DEMO.loras / "greyscale.safetensors", loras)
    for server in start_server(replace(DEMO, loras=loras), log):
        yield Adapted(server, loras, log)


def test_an_adapter_is_added_replaced_and_removed_without_a_restart(adapted: Adapted) -> None:
    from safetensors.torch import load_file, save_file

    url, anew = adapted.server.grpc_url, adapted.loras / "anew.safetensors"
    refusal = quoted("InvalidRequest: flux_base: LORA='anew', expected one of")
    assert told(url, lora="anew", num_inference_steps=2) == refusal
    weights = load_file(adapted.loras / "greyscale.safetensors")
    anew.write_bytes((adapted.loras / "greyscale.safetensors").read_bytes()[:1000])
    assert told(url, lora="anew", num_inference_steps=2) == quoted("InvalidRequest: flux_base: LORA='anew' cannot be")
    shutil.copy(adapted.loras / "greyscale.safetensors", anew)
    assert adapted.draws("anew") == adapted.draws("anew")
    first = adapted.draws("anew")
    save_file({name: -2 * tensor if "lora_B" in name else tensor for name, tensor in weights.items()}, anew)
    assert adapted.draws("anew") != first
    anew.unlink()
    assert told(url, lora="anew", num_inference_steps=2) == refusal


def test_non_finite_image_is_reported_to_client_and_log(adapted: Adapted) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(adapted.loras / "greyscale.safetensors")
    # The weights are finite, but their products are not.
    save_file({name: tensor.float() * 1e30 for name, tensor in weights.items()}, adapted.loras / "large.safetensors")
    try:
        said = told(adapted.server.grpc_url, lora="large", num_inference_steps=2)
    finally:
        (adapted.loras / "large.safetensors").unlink()
    assert said == quoted("GenerationFailed: flux_base: the latents")
    line = re.escape(quoted("ERROR flux_serving.backend.wire")).replace(r"'\.\.\.'", "'[^']*'")
    assert re.search(line, adapted.log.read_text(errors="replace"))


def test_full_queue_error_matches_the_guide(adapted: Adapted) -> None:
    url, large = adapted.server.grpc_url, {"height": 512, "width": 512, "num_inference_steps": 100, "num_images": 8}
    crowd = [threading.Thread(target=told, args=(url, 5), kwargs=large) for _ in range(8)]
    for caller in crowd:
        caller.start()
    until = time.monotonic() + 4
    while (load := engine_metrics(adapted.server))["flux_jobs_waiting"] + load["flux_jobs_running"] < 64:
        assert time.monotonic() < until, dict(load)
        time.sleep(0.05)
    assert told(url, **large) == quoted("Overloaded: flux_base")
    for caller in crowd:
        caller.join()
    assert engine_metrics(adapted.server)["flux_jobs_total:refused"] == 8


def test_deadline_error_matches_the_guide(demo_server: TritonServer) -> None:
    said = told(demo_server.grpc_url, timeout_s=1, height=512, width=512, num_inference_steps=100)
    assert said == quoted("DeadlineExceeded: no response").replace("host:8001", demo_server.grpc_url)


@contextmanager
def gateway_of(server: TritonServer, log: Path) -> Iterator[Gateway]:
    (port,) = free_ports(1)
    with log.open("ab") as output, Gateway(server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        yield gateway


def test_keys_are_rotated_by_a_restart_and_work_side_by_side(
    demo_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old, old_entry), (new, new_entry) = new_key("ann"), new_key("ann-2")
    keys, log = tmp_path / "keys.json", tmp_path / "gateway.log"
    monkeypatch.setenv("FLUX_GATEWAY_KEYS_FILE", str(keys))
    keys.write_text(json.dumps([old_entry]))

    def statuses() -> list[int]:
        body = {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 1}
        answers = [httpx.post(f"{gateway.url}/generate", json=body, headers={"X-API-Key": k}) for k in (old, new)]
        for answer in answers:
            if answer.status_code == 401:
                assert answer.json()["error"] == quoted("the API key is missing or unknown")
        return [answer.status_code for answer in answers]

    with gateway_of(demo_server, log) as gateway:
        keys.write_text(json.dumps([old_entry, new_entry]))
        assert statuses() == [200, 401]
    with gateway_of(demo_server, log) as gateway:
        assert statuses() == [200, 200]
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"/generate"' in line]
    assert [line["caller"] for line in lines] == ["ann", None, "ann", "ann-2"]


def test_start_errors_match_the_guide(tmp_path: Path) -> None:
    def said(checkpoints: Checkpoints = DEMO, **options: Any) -> str:
        ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(), strict=True))
        with pytest.raises(CannotStart) as caught:
            TritonServer(ServerOptions(ROOT / "model_repository", checkpoints, **{**ports, **options})).start()
        return f"scripts/serve: {caught.value}"

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = quoted("scripts/serve: cannot listen on port 8000")
        assert said(http_port=port) == taken.replace("8000", str(port))
    base = tmp_path / "FLUX.1-dev"
    shutil.copytree(DEMO.base, base, ignore=lambda folder, names: {"vae"} & set(names))
    words = said(Checkpoints(base, tmp_path / "FLUX.1-Redux-dev"))
    for quote in (quoted("scripts/serve: FLUX_MODEL_PATH: "), quoted("FLUX_REDUX_MODEL_PATH: no folder")):
        assert quote.replace("/models", str(tmp_path)) in words
