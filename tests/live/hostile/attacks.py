"""Attacks on a running server; each sends its traffic until it is stopped."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
from tritonclient.grpc import service_pb2

from flux_client import FluxClient, FluxError
from hostile.cases import Targets, by_grpc
from hostile.images import progressive_with_scans
from hostile.tensors import add_input, add_text
from images import drawn_image, encoded

#: Sends one hostile request; called repeatedly by several threads.
Blow = Callable[[Targets, random.Random], None]


@dataclass(frozen=True)
class Attack:
    """An attack. threads: number of threads that send."""

    blow: Blow
    threads: int = 4

    def run(self, targets: Targets, seconds: float) -> int:
        """Attack for this time. Returns how often a request was answered or cut off."""
        stop, blows = threading.Event(), list[int]()

        def attack(number: int) -> None:
            rng = random.Random(number)
            while not stop.is_set():
                with contextlib.suppress(httpx.HTTPError, grpc.RpcError, FluxError, OSError):
                    self.blow(targets, rng)
                blows.append(1)

        threads = [threading.Thread(target=attack, args=(number,), daemon=True) for number in range(self.threads)]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a request of the attack hangs"
        return len(blows)


@cache
def _bomb() -> bytes:
    """An image of about 300 KB, which takes half a minute of CPU time to decode without a limit."""
    return progressive_with_scans(2500)


def jpeg_with_many_scans(targets: Targets, rng: random.Random) -> None:
    # A byte after the end makes it a different image for the response cache.
    content = _bomb() + rng.randbytes(4)
    data = {"mode": "redux", "num_inference_steps": "1", "height": "64", "width": "64"}
    targets.http.post(f"{targets.gateway_url}/generate/upload", data=data, files={"input_image": content}, timeout=5)


def unknown_adapters(targets: Targets, rng: random.Random) -> None:
    with (
        FluxClient(targets.grpc_url) as client,
        client.stream(drawn_image(1), lora=f"ü{rng.random()}", num_inference_steps=1) as stream,
    ):
        list(stream)


def json_of_many_elements(targets: Targets, rng: random.Random) -> None:
    body = b'{"prompt": "x", "zz": [' + b"{}," * 2_000_000 + b"{}]}"
    targets.http.post(f"{targets.gateway_url}/generate", content=body, headers={"Content-Type": "application/json"})


def base64_with_spaces(targets: Targets, rng: random.Random) -> None:
    body = b'{"mode": "redux", "input_image": "' + b"A " * 10_000_000 + b'"}'
    targets.http.post(f"{targets.gateway_url}/generate", content=body, headers={"Content-Type": "application/json"})


_SLOW_HEAD = (
    b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
)


def slow_bodies(targets: Targets, rng: random.Random) -> None:
    address = urlsplit(targets.gateway_url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(_SLOW_HEAD)
        for _ in range(5):
            connection.sendall(b" ")
            threading.Event().wait(0.1)


def unknown_methods_and_paths(targets: Targets, rng: random.Random) -> None:
    targets.http.request(f"BREW{rng.randrange(10**6)}", f"{targets.gateway_url}/{rng.randrange(10**9)}")


def jobs_for_ever(targets: Targets, rng: random.Random) -> None:
    body = {"mode": "text2img", "prompt": "x", "height": 64, "width": 64, "num_inference_steps": 1, "n": 8}
    targets.http.post(f"{targets.gateway_url}/v1/jobs", json=body)


def vae_previews(targets: Targets, rng: random.Random) -> None:
    with (
        FluxClient(targets.grpc_url) as client,
        client.stream(
            drawn_image(1), num_inference_steps=20, preview_steps=1, preview_method="vae", seed=rng.randrange(99)
        ) as stream,
    ):
        list(stream)


def long_contexts(targets: Targets, rng: random.Random) -> None:
    request = service_pb2.ModelInferRequest(model_name="flux_base")
    tokens = np.random.default_rng(rng.randrange(99)).normal(size=(6000, 4096)).astype(np.float32)
    add_input(request, "CONTEXT", "FP32", [1, *tokens.shape], tokens.tobytes())
    add_input(request, "CONTEXT_WEIGHTS", "FP32", [1, 6000], np.ones(6000, np.float32).tobytes())
    add_input(request, "POOLED_PROJECTION", "FP32", [1, 768], bytes(4 * 768))
    add_input(request, "NUM_INFERENCE_STEPS", "INT32", [1, 1], struct.pack("<i", 2))
    by_grpc(targets, request)


def flood_of_images(targets: Targets, rng: random.Random) -> None:
    request = service_pb2.ModelInferRequest(model_name="flux_redux")
    add_text(request, "IMAGE", encoded(drawn_image(rng.randrange(10**6), 64, 64)))
    add_input(request, "NUM_INFERENCE_STEPS", "INT32", [1, 1], struct.pack("<i", 1))
    by_grpc(targets, request)


def cancelled_streams(targets: Targets, rng: random.Random) -> None:
    with (
        FluxClient(targets.grpc_url) as client,
        client.stream(drawn_image(1), num_inference_steps=60, seed=rng.randrange(99)) as stream,
    ):
        for _, _ in zip(range(2), stream, strict=False):
            pass
        stream.cancel()


ATTACKS: dict[str, Attack] = {
    blow.__name__: Attack(blow, threads)
    for blow, threads in (
        (jpeg_with_many_scans, 3),
        (unknown_adapters, 3),
        (json_of_many_elements, 4),
        (base64_with_spaces, 4),
        (slow_bodies, 30),
        (unknown_methods_and_paths, 2),
        (jobs_for_ever, 2),
        (vae_previews, 4),
        (long_contexts, 1),
        (flood_of_images, 32),
        (cancelled_streams, 3),
    )
}
