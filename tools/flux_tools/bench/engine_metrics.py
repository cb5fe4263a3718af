"""Where the time of flux-triton goes, from its own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flux_serving.launch.urls import fetch
from flux_tools.metrics import parse_counters


@dataclass(frozen=True)
class StepShare:
    """A row of the table. metric: a counter. model: None for any model. unit_s: unit of the counter, in seconds."""

    label: str
    metric: str
    model: str | None = None
    unit_s: float = 1.0

    @property
    def key(self) -> str:
        return self.metric if self.model is None else f"{self.metric} {self.model}"


SHARES = (
    StepShare("`flux_base`: forward passes of the transformer", "flux_forward_seconds_total"),
    StepShare("`flux_base`: denoising steps, including forward passes", "flux_step_seconds_sum"),
    StepShare("`flux_base`: VAE decoder", "flux_decode_seconds_sum"),
    StepShare("`flux_prior_redux`, from Triton", "nv_inference_compute_infer_duration_us", "flux_prior_redux", 1e-6),
    StepShare("`image_encode`, from Triton", "nv_inference_compute_infer_duration_us", "image_encode", 1e-6),
)
#: ROWS divided by STEPS is the mean number of images per step.
ROWS, STEPS = StepShare("rows", "flux_rows_per_step_sum"), StepShare("steps", "flux_rows_per_step_count")


def read_counters(url: str) -> dict[str, float]:
    """Return the counters above that the server publishes, by `StepShare.key`."""
    return parse_shares(fetch(url, 30).decode())


def parse_shares(text: str) -> dict[str, float]:
    """Sum the counters of all instances, by `StepShare.key`. text: Prometheus text format."""
    shares: dict[str, float] = {}
    for (metric, model), value in parse_counters(text).items():
        for share in (*SHARES, ROWS, STEPS):
            if metric == share.metric and share.model in (None, model):
                shares[share.key] = shares.get(share.key, 0.0) + value
    return shares


def share_of(metrics: Mapping[str, float], share: StepShare, wall_s: float) -> str:
    """Return the share as text, in percent of the wall time."""
    if share.key not in metrics:
        return "not published"
    return f"{100 * metrics[share.key] * share.unit_s / wall_s:.0f} %"


def rows_per_step(metrics: Mapping[str, float]) -> str:
    """Return the mean number of images per step, as text."""
    steps = metrics.get(STEPS.key, 0.0)
    return f"{metrics.get(ROWS.key, 0.0) / steps:.1f}" if steps else "not published"
