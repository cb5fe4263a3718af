"""Publishes the contract's metrics through Triton, for one instance of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import triton_python_backend_utils as pb_utils

from flux_contract.metrics import Metric, MetricKind

_KINDS = {
    MetricKind.COUNTER: pb_utils.MetricFamily.COUNTER,
    MetricKind.GAUGE: pb_utils.MetricFamily.GAUGE,
    MetricKind.HISTOGRAM: pb_utils.MetricFamily.HISTOGRAM,
}


class Published:
    """Creates metrics and holds their families: Triton removes a family without references and its values (2.51)."""

    def __init__(self, model: str, instance: str) -> None:
        self._labels = {"model": model, "instance": instance}
        self._families: list[Any] = []

    def one(self, metric: Metric) -> Any:
        buckets = {"buckets": list(metric.buckets)} if metric.kind is MetricKind.HISTOGRAM else {}
        return self._family(metric).Metric(labels=self._labels, **buckets)

    def each(self, metric: Metric, values: Iterable[str]) -> dict[str, Any]:
        """Returns a metric for each value of the metric's own label."""
        family = self._family(metric)
        return {value: family.Metric(labels=self._labels | {metric.label: value}) for value in values}

    def _family(self, metric: Metric) -> Any:
        family = pb_utils.MetricFamily(name=metric.name, description=metric.meaning, kind=_KINDS[metric.kind])
        self._families.append(family)
        return family
