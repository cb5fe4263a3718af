"""Concurrent callers of every kind, some of which cancel or disconnect. All others get their own images."""

from __future__ import annotations

import pytest

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from mixed_load import MixedLoad

pytestmark = pytest.mark.live

#: Outcomes of a healthy server.
EXPECTED = {"right", "cancelled", "left"}


def test_leaving_callers_do_not_affect_others(demo_server: TritonServer, gateway: Gateway) -> None:
    load = MixedLoad(demo_server.grpc_url, demo_server.http_url, gateway.url)
    outcomes = load.run(8)
    print(dict(outcomes))
    assert {outcome for _, outcome in outcomes} <= EXPECTED, load.messages
    assert {kind for kind, outcome in outcomes if outcome == "right"} == {"grpc", "http", "stream", "rest"}
    assert load.count("cancelled") > 0
    assert load.count("left") > 0
    assert demo_server.poll() is None
