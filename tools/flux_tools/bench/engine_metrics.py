"""Where our server's time goes, from the counters that it publishes itself. The names are settled here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flux_serving.launch.urls import fetch
from flux_tools.metrics import parse_counters


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
#: Their quotient is how many images shared a step.
ROWS, STEPS = StepShare("rows", "flux_rows_per_step_sum"), StepShare("steps", "flux_rows_per_step_count")


def read_counters(url: str) -> dict[str, float]:
    """The counters named above that the server publishes, by `StepShare.key`."""
    return parse_shares(fetch(url, 30).decode())


def parse_shares(text: str) -> dict[str, float]:
    """Sum the counters of all instances, by `StepShare.key`. text: in Prometheus' format."""
    shares: dict[str, float] = {}
    for (metric, model), value in parse_counters(text).items():
        for share in (*SHARES, ROWS, STEPS):
            if metric == share.metric and share.model in (None, model):
                shares[share.key] = shares.get(share.key, 0.0) + value
    return shares


def share_of(metrics: Mapping[str, float], share: StepShare, wall_s: float) -> str:
    """As text, percent of the wall time."""
    if share.key not in metrics:
        return "not published"
    return f"{100 * metrics[share.key] * share.unit_s / wall_s:.0f} %"


def rows_per_step(metrics: Mapping[str, float]) -> str:
    """As text, on average."""
    steps = metrics.get(STEPS.key, 0.0)
    return f"{metrics.get(ROWS.key, 0.0) / steps:.1f}" if steps else "not published"
