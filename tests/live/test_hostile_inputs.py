"""Generated hostile inputs: each gets the correct error code, and a concurrent client loses nothing.

`pytest tests/live/test_hostile_inputs.py --hostile-inputs 20000` runs the long version.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from hostile.bodies import json_by_rest, multipart_by_rest, path_by_rest
from hostile.cases import Answer, Hostile, Targets
from hostile.images import image_by_grpc, image_by_rest
from hostile.tensors import request_by_http, structure_by_grpc, values_by_grpc
from witnesses import HonestClient

pytestmark = pytest.mark.live

#: Used in turn; images are the most dangerous, so they appear twice.
MAKERS = (
    *(image_by_grpc, image_by_rest, json_by_rest, multipart_by_rest, image_by_grpc, image_by_rest),
    *(values_by_grpc, structure_by_grpc, request_by_http, path_by_rest),
)
CALLERS = 6


def hostile_inputs(count: int) -> Iterator[Hostile]:
    """Returns the i-th input, which is the same in every run."""
    for index in range(count):
        yield MAKERS[index % len(MAKERS)](random.Random(index))


def test_hostile_inputs_get_correct_codes_and_affect_no_other_client(
    demo_server: TritonServer, gateway: Gateway, pytestconfig: pytest.Config
) -> None:
    targets = Targets(demo_server.grpc_url, demo_server.http_url, gateway.url)
    pid, counts, wrong = demo_server.pid, Counter[tuple[str, str]](), list[str]()

    def send(hostile: Hostile) -> tuple[Hostile, Answer]:
        try:
            return hostile, hostile.send(targets)
        except Exception as error:
            return hostile, Answer(type(error).__name__, str(error))

    honest = HonestClient(demo_server.grpc_url)
    honest.start()
    started = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        for hostile, answer in pool.map(send, hostile_inputs(pytestconfig.getoption("--hostile-inputs"))):
            counts[hostile.kind, answer.code] += 1
            if answer.code not in hostile.expected:
                wrong.append(f"{answer.code}, expected {sorted(hostile.expected)}: {hostile.what}: {answer.text[:200]}")
    honest.end()
    targets.close()
    for (kind, code), count in sorted(counts.items()):
        print(f"{kind:22} {code:20} {count:6}")
    print(f"{honest.images} honest images in {time.monotonic() - started:.0f} s")
    assert not wrong, "\n".join([f"{len(wrong)} wrong answers:", *wrong[:40]])
    assert not honest.failures, honest.failures[:10]
    assert honest.images > 0
    assert demo_server.pid == pid
    assert demo_server.poll() is None
