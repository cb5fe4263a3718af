"""Plain tritonclient calls without the client library, as any Triton user would write them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import tritonclient.grpc
import tritonclient.http
from prometheus_client.samples import Sample

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from flux_tools.metrics import read_samples

#: Tensors that flux_prior_redux passes to flux_base.
CONTEXT = ["CONTEXT", "CONTEXT_WEIGHTS", "CONTEXT_SPANS", "POOLED_PROJECTION", "POOLED_SPAN"]

NEGATIVE = ["NEGATIVE_CONTEXT", "NEGATIVE_CONTEXT_WEIGHTS", "NEGATIVE_POOLED_PROJECTION"]

Tensors = dict[str, npt.NDArray[Any]]

TYPES = {
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float32): "FP32",
    np.dtype(object): "BYTES",
}


def inputs_of(client_module: Any, tensors: Tensors) -> list[Any]:
    made = []
    for name, values in tensors.items():
        tensor = client_module.InferInput(name, list(values.shape), TYPES[values.dtype])
        tensor.set_data_from_numpy(values)
        made.append(tensor)
    return made


def array_of(name: str, value: Any) -> npt.NDArray[Any]:
    """Returns batched inputs: text as BYTES, SEED as INT64, other integers as INT32, floats as FP32."""
    if isinstance(value, np.ndarray):
        return value[None]
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], (str, bytes)):
        return np.array([[item.encode() if isinstance(item, str) else item for item in values]], dtype=object)
    kind = np.float32 if isinstance(values[0], float) else np.int64 if name == "SEED" else np.int32
    return np.array([values], kind)


def tensors_of(
    images: list[bytes], *, prompt: str | None = None, strengths: list[float] | None = None, **knobs: float
) -> Tensors:
    """Parameters by their tensor names in lower case: height, width, num_inference_steps, guidance_scale, seed ..."""
    types = {"guidance_scale": np.float32, "seed": np.int64}
    tensors = {name.upper(): np.array([[value]], types.get(name, np.int32)) for name, value in knobs.items()}
    tensors["IMAGE"] = np.array([images], dtype=object)
    if prompt is not None:
        tensors["PROMPT"] = np.array([[prompt.encode()]], dtype=object)
    if strengths is not None:
        tensors["IMAGE_STRENGTH"] = np.array([strengths], np.float32)
    return tensors


def call_grpc(url: str, model: str, tensors: Tensors, outputs: list[str]) -> Tensors:
    with tritonclient.grpc.InferenceServerClient(url) as client:
        wanted = [tritonclient.grpc.InferRequestedOutput(name) for name in outputs]
        result = client.infer(model, inputs_of(tritonclient.grpc, tensors), outputs=wanted)
        return {name: result.as_numpy(name)[0] for name in outputs}


def call_http(url: str, model: str, tensors: Tensors, outputs: list[str]) -> Tensors:
    with tritonclient.http.InferenceServerClient(url, network_timeout=120) as client:
        wanted = [tritonclient.http.InferRequestedOutput(name) for name in outputs]
        result = client.infer(model, inputs_of(tritonclient.http, tensors), outputs=wanted)
        return {name: result.as_numpy(name)[0] for name in outputs}


def triton_metric(server: TritonServer, name: str, model: str) -> float:
    """Returns a metric of one model, Triton's or the project's; 0 before it first appears."""
    for sample in samples_of(server):
        if sample.name == name and sample.labels.get("model") == model:
            return sample.value
    return 0.0


def engine_metrics(server: TritonServer) -> dict[str, float]:
    """Returns the metrics of flux_base without buckets; labelled ones are `name:value`. 0 before they appear."""
    values: dict[str, float] = defaultdict(float)
    for name, labels, value, *_ in samples_of(server):
        if name.startswith("flux_") and labels.get("model") == "flux_base" and "le" not in labels:
            own = labels.get("outcome") or labels.get("kind")
            values[f"{name}:{own}" if own else name] = value
    return values


def memory_of_models(server: TritonServer) -> int:
    """Returns the resident bytes of the models' processes, without shared memory."""
    total = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and (process / "comm").read_text().startswith("triton_python"):
                group = (process / "stat").read_text().rpartition(")")[2].split()[2]
                if int(group) == server.pid:
                    resident, shared = map(int, (process / "statm").read_text().split()[1:3])
                    total += (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return total


def samples_of(server: TritonServer) -> list[Sample]:
    return read_samples(f"http://127.0.0.1:{server.options.metrics_port}/metrics", 10)


def wait_until_healthy(gateway: Gateway) -> None:
    until = time.monotonic() + 60
    while httpx.get(f"{gateway.url}/health", timeout=5).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
