"""deploy/monitoring: rules and their cases, rendered files, and the targets of the objects."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


@pytest.mark.parametrize("command", ["check rules rules.yaml", "test rules rules_test.yaml"])
def test_promtool_accepts_the_rules_and_their_cases(command: str) -> None:
    """Each alert fires only in its own case, and none fires in healthy hours."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    done = subprocess.run(["promtool", *command.split()], cwd=MONITORING, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_committed_files_match_the_rendered_ones() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "render", "--check"], check=True)


def test_prometheus_rule_has_the_same_groups() -> None:
    rule = yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())


def test_every_alert_has_a_severity_and_a_runbook() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}


def test_every_alert_has_a_test_case() -> None:
    fired = set(re.findall(r'alertname="(\w+)"', (MONITORING / "rules_test.yaml").read_text()))
    assert fired == {alert["alert"] for alert in ALERTS}


def test_runbooks_name_only_existing_alerts() -> None:
    known = {alert["alert"] for alert in ALERTS}
    for alert in ALERTS:
        named = set(re.findall(r"\bFlux[A-Z]\w+", alert["annotations"]["runbook"]))
        assert named <= known - {alert["alert"]}, alert["alert"]


def test_service_monitors_select_services_and_ports() -> None:
    monitors = list(yaml.safe_load_all((MONITORING / "service-monitor.yaml").read_text()))
    found = {
        monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: endpoint["port"]
        for monitor in monitors
        for endpoint in monitor["spec"]["endpoints"]
    }
    assert found == {"triton": "metrics", "gateway": "rest"}
    assert {m["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] for m in monitors} == {"flux-triton"}
    jobs = {m["spec"]["endpoints"][0]["relabelings"][0]["replacement"] for m in monitors}
    assert jobs == {"flux-triton", "flux-gateway"}, "the rules know them by these names"


def test_kustomization_names_existing_files() -> None:
    kustomization = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())
    generated = [file.partition("=")[2] for maps in kustomization["configMapGenerator"] for file in maps["files"]]
    assert all((MONITORING / file).is_file() for file in [*kustomization["resources"], *generated])


def test_dashboard_has_its_rows_and_a_variable_data_source() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Engine", "Cache and memory", "Gateway", "Triton"]
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


def test_every_panel_has_a_unit_a_description_and_a_unique_title() -> None:
    panels = [panel for panel in PANELS if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
