"""A real Prometheus scrapes Triton and the gateway and evaluates every rule and panel."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.utils
import yaml

from flux_serving.launch.gateway import Gateway
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded
from prometheus import Prometheus, scraping
from raw import call_grpc, tensors_of

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"),
]

ROOT = Path(__file__).resolve().parent.parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
#: Values that Grafana would substitute for its variables.
VARIABLES = {"$__rate_interval": "30s", "$namespace": ".*"}
#: Metrics that Triton publishes only with a GPU; their names cannot be checked here.
OF_GPUS = {"nv_gpu_memory_used_bytes", "nv_gpu_utilization"}


@pytest.fixture(scope="module")
def prometheus(
    demo_server: TritonServer, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped generated, cached and rejected requests."""
    folder = tmp_path_factory.mktemp("prometheus")
    targets = {
        "flux-triton": f"127.0.0.1:{demo_server.options.metrics_port}",
        "flux-gateway": gateway.url.removeprefix("http://"),
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "rules.yaml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
        ],
    }
    with scraping(folder, config, targets=2) as server:
        # Two rounds, so that every counter has two more values after its first one.
        for _ in range(2):
            load(demo_server, gateway)
            scraped = time.time()
            server.wait_for(lambda: len(server.value(f"timestamp(up) > {scraped + 2}")) == 2)  # noqa: B023
        yield server


def load(server: TritonServer, gateway: Gateway) -> None:
    image = encoded(drawn_image(3))
    for _ in range(2):
        form = {"mode": "redux", "num_inference_steps": "4", "height": "64", "width": "64"}
        answer = httpx.post(f"{gateway.url}/generate/upload", data=form, files={"input_image": image}, timeout=60)
        assert answer.json()["success"], answer.text
    with pytest.raises(tritonclient.utils.InferenceServerException):
        call_grpc(server.grpc_url, "flux_redux", tensors_of([b"no image"]), ["OUTPUT_IMAGE"])


def filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:instance:)?(?:flux|nv)_\w+(?::\w+)?", re.sub(r'"[^"]*"', "", expression)))


EXPRESSIONS = {rule.get("record") or rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": filled(target["expr"])
    for panel in PANELS
    for target in panel.get("targets", ())
}


def test_every_expression_returns_data(prometheus: Prometheus) -> None:
    for expression in EXPRESSIONS.values():
        prometheus.value(expression)


def test_every_metric_name_is_scraped_or_recorded(prometheus: Prometheus) -> None:
    known = set(prometheus.ask("label/__name__/values")) | OF_GPUS
    for title, expression in EXPRESSIONS.items():
        assert names_in(expression) <= known, title


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda panel: panel["title"]
)
def test_a_panel_shows_something(prometheus: Prometheus, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        values = prometheus.value(filled(target["expr"]))
        assert values or names_in(target["expr"]) <= OF_GPUS, target["expr"]
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert all(label in value["metric"] for value in values), f"the legend's {label} is not there"


def test_every_rule_is_healthy_and_no_alert_fires(prometheus: Prometheus) -> None:
    prometheus.wait_for(lambda: all(group["lastEvaluation"] > "1" for group in prometheus.ask("rules")["groups"]))
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        if rule["type"] == "recording":
            assert prometheus.value(rule["name"]), rule["name"]
        else:
            assert rule["state"] != "firing", rule["name"]
