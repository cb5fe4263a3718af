"""Render deploy/monitoring/prometheus-rule.yaml and docs/alerts.md from deploy/monitoring/rules.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent

import yaml

_OBJECT = """\
# Rendered from rules.yaml by scripts/render.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flux-triton
  labels:
    app.kubernetes.io/name: flux-triton
spec:
"""


def render_object(rules: str) -> str:
    """Return the PrometheusRule. rules: the text of rules.yaml."""
    return _OBJECT + indent(rules[rules.index("groups:") :], "  ")


def render_alerts(rules: str) -> str:
    """Return docs/alerts.md. rules: the text of rules.yaml."""
    return "\n\n".join(_paragraphs(rules)) + "\n"


def _paragraphs(rules: str) -> Iterator[str]:
    yield "# Alerts"
    yield (
        "Rendered from `deploy/monitoring/rules.yaml` by `scripts/render`. Each alert carries its runbook as an "
        "annotation."
    )
    for group in yaml.safe_load(rules)["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                lasting = f", for {rule['for']}" if "for" in rule else ""
                yield f"## {rule['alert']}"
                yield f"{rule['labels']['severity'].capitalize()}. `{rule['expr']}`{lasting}."
                yield rule["annotations"]["runbook"]
