"""Plain tritonclient calls, with nothing of ours: what a stranger would write."""

from __future__ import annotations

import urllib.request
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

from flux_serving.launch.server import TritonServer

TYPES = {
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float32): "FP32",
    np.dtype(object): "BYTES",
}


def inputs_of(client_module: Any, tensors: dict[str, np.ndarray]) -> list[Any]:
    made = []
    for name, values in tensors.items():
        tensor = client_module.InferInput(name, list(values.shape), TYPES[values.dtype])
        tensor.set_data_from_numpy(values)
        made.append(tensor)
    return made


def tensors_of(
    pictures: list[bytes], *, prompt: str | None = None, strengths: list[float] | None = None, **knobs: float
) -> dict[str, np.ndarray]:
    """Knobs by their tensor names in small letters: height, width, num_inference_steps, guidance_scale, seed ..."""
    types = {"guidance_scale": np.float32, "seed": np.int64}
    tensors = {name.upper(): np.array([[value]], types.get(name, np.int32)) for name, value in knobs.items()}
    tensors["IMAGE"] = np.array([pictures], dtype=object)
    if prompt is not None:
        tensors["PROMPT"] = np.array([[prompt.encode()]], dtype=object)
    if strengths is not None:
        tensors["IMAGE_STRENGTH"] = np.array([strengths], np.float32)
    return tensors


def call_grpc(url: str, model: str, tensors: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    with tritonclient.grpc.InferenceServerClient(url) as client:
        wanted = [tritonclient.grpc.InferRequestedOutput(name) for name in outputs]
        result = client.infer(model, inputs_of(tritonclient.grpc, tensors), outputs=wanted)
        return {name: result.as_numpy(name)[0] for name in outputs}


def call_http(url: str, model: str, tensors: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    with tritonclient.http.InferenceServerClient(url, network_timeout=120) as client:
        wanted = [tritonclient.http.InferRequestedOutput(name) for name in outputs]
        result = client.infer(model, inputs_of(tritonclient.http, tensors), outputs=wanted)
        return {name: result.as_numpy(name)[0] for name in outputs}


def triton_metric(server: TritonServer, name: str, model: str) -> float:
    """A metric of one model, as Prometheus would read it; 0 before it first appears."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.options.metrics_port}/metrics", timeout=10) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(f"{name}{{") and f'model="{model}"' in line:
                return float(line.split()[-1])
    return 0.0
