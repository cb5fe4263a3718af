"""Triton's and our metrics before and after a run, and what grew: the time that the inner models took."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flux_contract.metrics import DECODE_SECONDS, JOB_SECONDS, QUEUE_SECONDS
from flux_contract.models import FLUX_BASE, FLUX_PRIOR_REDUX, IMAGE_ENCODE
from flux_tools.perf.servers import fetched

#: By metric and model, all instances and reasons added up.
Counters = Mapping[tuple[str, str], float]

_LINE = re.compile(r'^(\w+)\{(?:.*,)?model="([^"]*)".*\} (\S+)$')


def read_counters(metrics_url: str) -> Counters:
    """Raises NoServer."""
    return parse_counters(fetched(metrics_url))


def parse_counters(text: str) -> Counters:
    """text: in Prometheus' format; buckets of histograms are left out, their sums and counts stay."""
    counters: dict[tuple[str, str], float] = {}
    for match in filter(None, map(_LINE.match, text.splitlines())):
        name, model, value = match.groups()
        if not name.endswith("_bucket"):
            counters[name, model] = counters.get((name, model), 0.0) + float(value)
    return counters


def growth(before: Counters, after: Counters) -> Counters:
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


@dataclass(frozen=True)
class Inside:
    """What the server says of a run. Seconds are means of what one request waited for; 0.0 of what was not asked.

    prior_s, encode_s: from the model's queue to its answer, by Triton; a hit of the response cache is counted as prior.
    queue_s: until the first denoising step. denoise_s: the steps, those of others between them, and the wait for the
    decoder. decode_s: one call of the VAE's decoder, which may be for several pictures. All three are by the engine's
    own metrics, because Triton's times of `flux_base` end before its work begins.
    """

    failed: int
    cache_hits: int
    cache_misses: int
    prior_s: float
    queue_s: float
    denoise_s: float
    decode_s: float
    encode_s: float

    @property
    def models_s(self) -> float:
        return self.prior_s + self.queue_s + self.denoise_s + self.decode_s + self.encode_s


def inside(grown: Counters, model: str) -> Inside:
    """grown: over one run of requests to this model."""

    def count(name: str, of: str) -> float:
        return grown.get((name, of), 0.0)

    def mean(total: str, number: str, of: str, unit: float = 1.0) -> float:
        return unit * count(total, of) / count(number, of) if count(number, of) else 0.0

    def triton(of: str) -> float:
        return mean("nv_inference_request_duration_us", "nv_inference_request_success", of, 1e-6)

    def ours(name: str) -> float:
        return mean(f"{name}_sum", f"{name}_count", FLUX_BASE.name)

    queue, decode = ours(QUEUE_SECONDS.name), ours(DECODE_SECONDS.name)
    return Inside(
        failed=round(count("nv_inference_request_failure", model)),
        cache_hits=round(count("nv_cache_num_hits_per_model", FLUX_PRIOR_REDUX.name)),
        cache_misses=round(count("nv_cache_num_misses_per_model", FLUX_PRIOR_REDUX.name)),
        prior_s=triton(FLUX_PRIOR_REDUX.name),
        queue_s=queue,
        denoise_s=max(0.0, ours(JOB_SECONDS.name) - queue - decode),
        decode_s=decode,
        encode_s=triton(IMAGE_ENCODE.name),
    )
