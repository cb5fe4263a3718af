"""The autoscalers' metrics: runs the manifests' queries on a real Prometheus that scrapes a busy Triton."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from flux_client import FluxClient
from flux_contract.metrics import METRICS, TOKENS_RUNNING, TOKENS_WAITING
from flux_serving.launch.server import TritonServer
from images import drawn_image
from manifests import DEPLOY, named, of_kind, rendered
from prometheus import Prometheus, scraping
from raw import engine_metrics
from test_monitoring import names_in, pytestmark  # noqa: F401

#: The same server, discovered twice as two pods.
PODS = ("flux-triton-a", "flux-triton-b")
(TRIGGER,) = named(rendered("gpu-2 with keda"), "ScaledObject", "flux-triton")["spec"]["triggers"]
KEDA: str = TRIGGER["metadata"]["query"]
(ADAPTER,) = yaml.safe_load((DEPLOY / "prometheus-adapter" / "values.yaml").read_text())["rules"]["custom"]


def of_adapter(pods: tuple[str, ...] = PODS) -> str:
    """The query of prometheus-adapter, with its template filled in for the pods of a Deployment."""
    matchers = f'namespace="flux-triton",pod=~"{"|".join(pods)}"'
    query: str = ADAPTER["metricsQuery"].replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")
    assert "<<" not in query
    return query


@pytest.fixture(scope="module")
def prometheus(demo_server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    metrics = f"127.0.0.1:{demo_server.options.metrics_port}"
    # The operator's targets of a ServiceMonitor have these labels, too.
    found = [
        {"targets": [metrics], "labels": {"namespace": "flux-triton", "pod": pod, "instance": pod}} for pod in PODS
    ]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "flux-triton", "static_configs": found}],
    }
    with scraping(folder, config, len(PODS)) as server:
        yield server


def number(values: list[dict[str, Any]]) -> float:
    """Returns the value of the single row that KEDA expects."""
    (row,) = values
    return float(row["value"][1])


@contextmanager
def two_long_images(server: TritonServer) -> Iterator[None]:
    """Keep images in progress while the block runs: 512x512, 1024 tokens each plus those of their contexts."""

    def ask() -> None:
        with (
            FluxClient(server.grpc_url) as client,
            client.stream(drawn_image(1), num_images=2, height=512, width=512, num_inference_steps=100) as stream,
        ):
            for _ in stream:
                if over.is_set():
                    break

    over = threading.Event()
    caller = threading.Thread(target=ask)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join(60)
        assert not caller.is_alive()


def tokens(server: TritonServer) -> float:
    scraped = engine_metrics(server)
    return scraped[TOKENS_RUNNING.name] + scraped[TOKENS_WAITING.name]


def test_metric_names_match_contract_and_scrape(demo_server: TritonServer) -> None:
    names = names_in(KEDA) | names_in(of_adapter()) | names_in(ADAPTER["seriesQuery"])
    assert names == {TOKENS_RUNNING.name, TOKENS_WAITING.name}
    assert names <= {metric.name for metric in METRICS}
    assert names <= set(engine_metrics(demo_server))


def test_autoscaler_queries_metrics_of_the_adapter(prometheus: Prometheus) -> None:
    (hpa,) = of_kind(rendered("gpu-2 with hpa"), "HorizontalPodAutoscaler")
    assert hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] == ADAPTER["name"]["as"]
    found = prometheus.value(ADAPTER["seriesQuery"])
    assert {row["metric"]["pod"] for row in found} == set(PODS)
    assert set(ADAPTER["resources"]["overrides"]) <= set(found[0]["metric"])


def test_both_autoscalers_see_load_of_each_pod_and_its_end(prometheus: Prometheus, demo_server: TritonServer) -> None:
    prometheus.wait_for(lambda: number(prometheus.value(KEDA)) == 0)
    with two_long_images(demo_server):
        prometheus.wait_for(lambda: number(prometheus.value(KEDA)) > 0)
        until = time.monotonic() + 30
        # Both images are in progress, and Prometheus has scraped that.
        while (seen := prometheus.value(of_adapter())) and time.monotonic() < until:
            now = tokens(demo_server)
            if now >= 2 * 1024 and {float(row["value"][1]) for row in seen} == {now}:
                break
            time.sleep(0.3)
        assert {row["metric"]["pod"]: float(row["value"][1]) for row in seen} == dict.fromkeys(PODS, now)
        assert 2 * 1024 < now < 2 * (1024 + 1024), "512x512 pixels are 1024 tokens, and a context has some"
        # One GPU in each: KEDA's number is the sum, which it divides by the threshold.
        assert number(prometheus.value(KEDA)) == len(PODS) * now
    prometheus.wait_for(lambda: number(prometheus.value(KEDA)) == 0)
    assert {float(row["value"][1]) for row in prometheus.value(of_adapter())} == {0.0}


SERIES = """
rule_files: []
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
{series}
    promql_expr_test:
      - expr: {keda}
        eval_time: 1m
        exp_samples: [{{labels: "{{}}", value: {expected}}}]
      - expr: {adapter}
        eval_time: 1m
        exp_samples:
          - {{labels: '{{pod="flux-triton-a"}}', value: 20000}}
          - {{labels: '{{pod="flux-triton-b"}}', value: 5000}}
"""


def test_load_of_pod_with_two_gpus_counts_per_gpu(tmp_path: Path) -> None:
    """Checked with promtool on synthetic series: a has 30000 and 10000 tokens on its GPUs, b 6000 and 4000."""
    made = {("a", 0): (20000, 10000), ("a", 1): (0, 10000), ("b", 0): (6000, 0), ("b", 1): (4000, 0)}
    lines = []
    for (pod, gpu), values in made.items():
        for name, value in zip((TOKENS_RUNNING.name, TOKENS_WAITING.name), values, strict=True):
            labels = f'{{namespace="flux-triton",pod="flux-triton-{pod}",exported_instance="flux_base_0_{gpu}"}}'
            lines.append(f"      - {{series: '{name}{labels}', values: '{value}x10'}}")
    # 50000 tokens in total with two GPUs per pod count as 25000 with one GPU per pod. Divided by the threshold that is
    # two pods.
    text = SERIES.format(series="\n".join(lines), keda=repr(KEDA), adapter=repr(of_adapter()), expected=25000)
    (tmp_path / "test.yaml").write_text(text)
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keda_treats_missing_response_as_failure_instead_of_no_load(prometheus: Prometheus) -> None:
    nobodys = KEDA.replace("flux-triton", "elsewhere")
    assert prometheus.value(nobodys) == []
    assert TRIGGER["metadata"]["ignoreNullValues"] == "false"
