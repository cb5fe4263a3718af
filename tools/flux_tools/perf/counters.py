"""Time that a run spent in each model, from Triton's and this server's metrics before and after it."""

from __future__ import annotations

from dataclasses import dataclass

from flux_contract.metrics import DECODE_SECONDS, JOB_SECONDS, QUEUE_SECONDS
from flux_contract.models import FLUX_BASE, FLUX_PRIOR_REDUX, IMAGE_ENCODE
from flux_tools.metrics import Counters, parse_counters
from flux_tools.perf.servers import fetched


def read_counters(metrics_url: str) -> Counters:
    """Raises NoServer."""
    return parse_counters(fetched(metrics_url))


@dataclass(frozen=True)
class Inside:
    """The server's metrics of a run. Seconds are means per request; 0.0 for a model that was not used.

    prior_s, encode_s: queue and execution, from Triton; a hit of the response cache counts as prior_s. queue_s: until
    the first denoising step. denoise_s: the steps, the steps of other jobs between them, and the wait for the decoder.
    decode_s: one call of the VAE decoder, which may decode several images. queue_s, denoise_s and decode_s are from the
    engine's metrics, because Triton's times of `flux_base` end before its work begins.
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
    """Return the times of a run. grown: increase of the counters. model: the model that received the requests."""

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
