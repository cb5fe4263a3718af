"""What the models publish beside Triton's own metrics: names, kinds, buckets, and the question each answers.

Triton's compute and queue times of `flux_base` say nothing, because `execute` returns before the work begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class MetricKind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """buckets: upper ends, in the metric's unit. label: one that it has beside `model` and `instance`."""

    name: str
    kind: MetricKind
    meaning: str
    question: str
    buckets: tuple[float, ...] = ()
    label: str = ""


#: A step takes milliseconds on the demo checkpoint, a quarter of a second for 1024 x 1024 on an H100.
_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: From a few steps of the demo to a full waiting list of long jobs.
_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

JOBS_RUNNING = Metric(
    "flux_jobs_running",
    MetricKind.GAUGE,
    "Images that have taken a step and have more to take",
    "How many pictures are in the making?",
)
JOBS_WAITING = Metric(
    "flux_jobs_waiting",
    MetricKind.GAUGE,
    "Images that have taken no step yet",
    "Do requests wait at all?",
)
TOKENS_RUNNING = Metric(
    "flux_tokens_running",
    MetricKind.GAUGE,
    "Tokens of the images that have taken a step and have more to take: what one step of each would process",
    "How much is in the making, whatever the sizes?",
)
TOKENS_WAITING = Metric(
    "flux_tokens_waiting",
    MetricKind.GAUGE,
    "Tokens of the images that have taken no step yet",
    "Is one more GPU needed? Scale on this and `flux_tokens_running` together.",
)
JOBS = Metric(
    "flux_jobs_total",
    MetricKind.COUNTER,
    "Images by outcome: done, refused (no room in `flux_base`, each attempt counted), cancelled, timed_out, failed",
    "How many pictures were made, and what became of the others?",
    label="outcome",
)
QUEUE_SECONDS = Metric(
    "flux_queue_seconds",
    MetricKind.HISTOGRAM,
    "Time from an image's arrival in the engine to its first step",
    "How long does a request wait before anything happens?",
    _WAIT_BUCKETS,
)
JOB_SECONDS = Metric(
    "flux_job_seconds",
    MetricKind.HISTOGRAM,
    "Time from an image's arrival in the engine to its pixels, of those that were done",
    "How long does a picture take, waiting included?",
    _WAIT_BUCKETS,
)
STEP_SECONDS = Metric(
    "flux_step_seconds",
    MetricKind.HISTOGRAM,
    "Time of one denoising step, shared by all its rows; its count is the number of steps",
    "Has the machine become slower? How often does the engine step?",
    _STEP_BUCKETS,
)
FORWARD_SECONDS = Metric(
    "flux_forward_seconds_total",
    MetricKind.COUNTER,
    "Time inside the transformer's forwards, and in what of them the stepping thread computes once for an image",
    "How busy is the engine? Its rate is the share of time that goes into denoising.",
)
ROWS_PER_STEP = Metric(
    "flux_rows_per_step",
    MetricKind.HISTOGRAM,
    "Images that shared a step",
    "Do requests share their steps?",
    (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
)
TOKENS = Metric(
    "flux_tokens_total",
    MetricKind.COUNTER,
    "Tokens, of images and contexts and their padding, that all networks computed, at each step",
    "What is the throughput, whatever the sizes? Its rate is tokens per second.",
)
DECODE_SECONDS = Metric(
    "flux_decode_seconds",
    MetricKind.HISTOGRAM,
    "Time of the VAE's decoder, for pictures that were decoded together",
    "What does the end of a picture cost?",
    _STEP_BUCKETS,
)
SECONDS_LEFT = Metric(
    "flux_seconds_left",
    MetricKind.GAUGE,
    "Time until every image of the instance has taken its last step, at the step times measured so far",
    "Does one instance idle while another one has a queue?",
)
HANDED_OVER = Metric(
    "flux_handed_over_total",
    MetricKind.COUNTER,
    "Images of requests that Triton gave to this instance and that another instance made",
    "Do the instances share the work?",
)
# Of every model's process; the others are of the engine.
HEARTBEAT = Metric(
    "flux_heartbeat_seconds",
    MetricKind.GAUGE,
    "Unix time at which the model's process last told that it lives, about every second",
    "Is the process dead? Triton goes on publishing the last values of one that is.",
)
PRIVATE_MEMORY = Metric(
    "flux_private_memory_bytes",
    MetricKind.GAUGE,
    "Resident memory of the model's process, without files and shared memory; `RssAnon` of Linux",
    "Does the process grow from hour to hour?",
)
SHARED_MEMORY = Metric(
    "flux_shared_memory_bytes",
    MetricKind.GAUGE,
    "Bytes of `/dev/shm`, through which all tensors travel: its size, and how much of it is used",
    "Will the next large tensors find room?",
    label="kind",
)

METRICS: tuple[Metric, ...] = (
    JOBS_RUNNING,
    JOBS_WAITING,
    TOKENS_RUNNING,
    TOKENS_WAITING,
    JOBS,
    QUEUE_SECONDS,
    JOB_SECONDS,
    STEP_SECONDS,
    FORWARD_SECONDS,
    ROWS_PER_STEP,
    TOKENS,
    DECODE_SECONDS,
    SECONDS_LEFT,
    HANDED_OVER,
    HEARTBEAT,
    PRIVATE_MEMORY,
    SHARED_MEMORY,
)
