"""Reads the metrics of Triton and the gateway in the Prometheus text format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from flux_serving.launch.urls import fetch

#: Values by metric and model, summed over all other labels.
Counters = Mapping[tuple[str, str], float]
_Key = TypeVar("_Key", str, tuple[str, str])


def parse_samples(text: str) -> Iterator[Sample]:
    """Yield each sample under the name that it has in the text.

    Comments are left out, because the parser appends `_total` to the names of declared counters, and the names of
    Triton's counters do not end with it.
    """
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for family in text_string_to_metric_families("\n".join(lines)):
        yield from family.samples


def read_samples(url: str, timeout_s: float = 30.0) -> list[Sample]:
    """Return the samples at the URL. Raises OSError: the server does not return metrics."""
    return list(parse_samples(fetch(url, timeout_s).decode()))


def parse_counters(text: str) -> Counters:
    """Sum the samples of each metric and model. Samples without a model and buckets of histograms are left out."""
    counters: dict[tuple[str, str], float] = defaultdict(float)
    for sample in parse_samples(text):
        if "model" in sample.labels and not sample.name.endswith("_bucket"):
            counters[sample.name, sample.labels["model"]] += sample.value
    return dict(counters)


def growth(before: Mapping[_Key, float], after: Mapping[_Key, float]) -> dict[_Key, float]:
    """Return the increase of each counter. A counter that is only in `after` starts from 0."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}
