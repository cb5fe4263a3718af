"""Where our server's time goes, from the counters that it publishes itself. The names are settled here alone."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StepShare:
    """A row of the table. metric: a counter. model: of which model, None for any. unit_s: seconds that 1 of it is."""

    label: str
    metric: str
    model: str | None = None
    unit_s: float = 1.0

    @property
    def key(self) -> str:
        return self.metric if self.model is None else f"{self.metric} {self.model}"


SHARES = (
    StepShare("`flux_base`: inside forwards of the transformer", "flux_forward_seconds_total"),
    StepShare("`flux_base`: denoising steps, forwards included", "flux_step_seconds_sum"),
    StepShare("`flux_base`: VAE decoder", "flux_decode_seconds_sum"),
    StepShare("`flux_prior_redux`, by Triton", "nv_inference_compute_infer_duration_us", "flux_prior_redux", 1e-6),
    StepShare("`image_encode`, by Triton", "nv_inference_compute_infer_duration_us", "image_encode", 1e-6),
)
#: Their quotient is how many pictures shared a step.
ROWS, STEPS = StepShare("rows", "flux_rows_per_step_sum"), StepShare("steps", "flux_rows_per_step_count")
_LINE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_MODEL = re.compile(r'model="([^"]*)"')


def read_counters(url: str) -> dict[str, float]:
    """The counters named above that the server publishes, by `StepShare.key`."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=30) as response:
        return parse_counters(response.read().decode())


def parse_counters(text: str) -> dict[str, float]:
    """text: in Prometheus' format. Counters of several instances are added up."""
    counters: dict[str, float] = {}
    for match in filter(None, map(_LINE.match, text.splitlines())):
        model = _MODEL.search(match["labels"] or "")
        for share in (*SHARES, ROWS, STEPS):
            if match["name"] == share.metric and share.model in (None, model[1] if model else None):
                counters[share.key] = counters.get(share.key, 0.0) + float(match["value"])
    return counters


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was published before and after; a counter that appeared meanwhile began at 0."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def share_of(metrics: Mapping[str, float], share: StepShare, wall_s: float) -> str:
    """As text, percent of the wall time."""
    if share.key not in metrics:
        return "not published"
    return f"{100 * metrics[share.key] * share.unit_s / wall_s:.0f} %"


def rows_per_step(metrics: Mapping[str, float]) -> str:
    """As text, on average."""
    steps = metrics.get(STEPS.key, 0.0)
    return f"{metrics.get(ROWS.key, 0.0) / steps:.1f}" if steps else "not published"
