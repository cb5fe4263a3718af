"""Metrics that the models publish beside Triton's own, each with the question that it answers.

Triton's compute and queue times of `flux_base` have no meaning, because its `execute` returns before the work starts.
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
    """A metric. buckets: upper ends in the metric's unit. label: beside `model` and `instance`."""

    name: str
    kind: MetricKind
    meaning: str
    question: str
    buckets: tuple[float, ...] = ()
    label: str = ""


#: Steps of the demo checkpoint take milliseconds, those of 1024 x 1024 on an H100 a quarter of a second.
_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: From a few steps of the demo checkpoint to a full queue of long jobs.
_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

JOBS_RUNNING = Metric(
    "flux_jobs_running",
    MetricKind.GAUGE,
    "Number of images that have taken at least one step and are not complete",
    "How many images are being generated?",
)
JOBS_WAITING = Metric(
    "flux_jobs_waiting",
    MetricKind.GAUGE,
    "Number of images that have not taken a step",
    "Do requests wait?",
)
TOKENS_RUNNING = Metric(
    "flux_tokens_running",
    MetricKind.GAUGE,
    "Tokens of the images that have taken at least one step and are not complete: one step of each processes them",
    "How much work is running, for any mix of sizes?",
)
TOKENS_WAITING = Metric(
    "flux_tokens_waiting",
    MetricKind.GAUGE,
    "Tokens of the images that have not taken a step",
    "Is another GPU needed? Scale on the sum of this and `flux_tokens_running`.",
)
JOBS = Metric(
    "flux_jobs_total",
    MetricKind.COUNTER,
    "Images by outcome: done, refused (no room in `flux_base`; every attempt counts), cancelled, timed_out, failed",
    "How many images were generated, and how did the others end?",
    label="outcome",
)
QUEUE_SECONDS = Metric(
    "flux_queue_seconds",
    MetricKind.HISTOGRAM,
    "Time from the arrival of an image in the engine to its first step",
    "How long does a request wait before it starts?",
    _WAIT_BUCKETS,
)
JOB_SECONDS = Metric(
    "flux_job_seconds",
    MetricKind.HISTOGRAM,
    "Time from the arrival of an image in the engine to its pixels, for images with the outcome done",
    "How long does an image take, including the wait?",
    _WAIT_BUCKETS,
)
STEP_SECONDS = Metric(
    "flux_step_seconds",
    MetricKind.HISTOGRAM,
    "Time of one denoising step of a batch. The count is the number of steps",
    "Is the machine slower than before? How many steps does the engine take?",
    _STEP_BUCKETS,
)
FORWARD_SECONDS = Metric(
    "flux_forward_seconds_total",
    MetricKind.COUNTER,
    "Time in the transformer's forward passes, and in the part of them that is computed once per image",
    "How busy is the engine? The rate is the share of time for denoising.",
)
ROWS_PER_STEP = Metric(
    "flux_rows_per_step",
    MetricKind.HISTOGRAM,
    "Number of images in one step",
    "Do requests share steps?",
    (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
)
TOKENS = Metric(
    "flux_tokens_total",
    MetricKind.COUNTER,
    "Tokens that all networks computed in all steps, of images, contexts and padding",
    "What is the throughput, for any mix of sizes? The rate is tokens per second.",
)
DECODE_SECONDS = Metric(
    "flux_decode_seconds",
    MetricKind.HISTOGRAM,
    "Time of the VAE decoder for one batch of images",
    "How long does decoding take?",
    _STEP_BUCKETS,
)
SECONDS_LEFT = Metric(
    "flux_seconds_left",
    MetricKind.GAUGE,
    "Estimated time until the instance has completed the steps of all its images, from measured step times",
    "Is one instance idle while another one has a queue?",
)
HANDED_OVER = Metric(
    "flux_handed_over_total",
    MetricKind.COUNTER,
    "Images of requests that Triton sent to this instance and that another instance generated",
    "Do instances share the work?",
)
# Every model publishes these. The engine publishes the others.
HEARTBEAT = Metric(
    "flux_heartbeat_seconds",
    MetricKind.GAUGE,
    "Unix time of the last heartbeat of the model's process, which is sent about once a second",
    "Is the process dead? Triton still publishes the last values of a dead process.",
)
PRIVATE_MEMORY = Metric(
    "flux_private_memory_bytes",
    MetricKind.GAUGE,
    "Resident memory of the model's process without files and shared memory: Linux' `RssAnon`",
    "Does the memory of the process grow over hours?",
)
SHARED_MEMORY = Metric(
    "flux_shared_memory_bytes",
    MetricKind.GAUGE,
    "Bytes of `/dev/shm`, which all tensors pass through: its size and its used bytes",
    "Is there room for the next large tensors?",
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
