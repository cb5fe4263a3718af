"""`flux_base`: weighted context tokens to pictures.

`execute` only reads the request and hands jobs to the engine; the engine's thread answers through the request's
response sender. Every request gets exactly one answer.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from flux_serving.backend.instance import Instance
from flux_serving.backend.metrics import EngineMetrics
from flux_serving.backend.progress_channel import ProgressFolder
from flux_serving.backend.progress_report import ProgressReport
from flux_serving.backend.wire import answer, error_response, read_inputs, read_text
from flux_serving.contract.knobs import OUTPUT_FORMAT, PRIORITY
from flux_serving.contract.models import (
    CONTEXT,
    CONTEXT_SPANS,
    CONTEXT_WEIGHTS,
    FLUX_BASE,
    INITIAL_LATENTS,
    LATENTS,
    OUTPUT_SEED,
    PIXELS,
    POOLED_PROJECTION,
    POOLED_SPAN,
    PROGRESS_ADDRESS,
    RECIPE,
    REFUSAL,
)
from flux_serving.contract.tensors import Array
from flux_serving.errors import FluxError, InvalidRequest, Overloaded
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import DEFAULT_LIMITS, Limits, Scheduler
from flux_serving.settings import Checkpoints
from flux_serving.stages.context import ALWAYS, Context, Span
from flux_serving.stages.denoising import Denoising
from flux_serving.stages.picture_encoding import parse_format
from flux_serving.stages.preview import Previewer
from flux_serving.stages.sampling import Picture, Sampler
from flux_serving.stages.sampling_parameters import SamplingParameters
from flux_serving.weights import choose_dtype, load_base, open_device

#: Tokens that share a step at most, where the settings say nothing. On a CPU, what a step gains from company is gone at
#: a thousand tokens (docs/performance.md). On a GPU nothing was measured: it is four pictures of 512 x 512 pixels.
STEP_TOKENS = {"cpu": 2048, "cuda": 8192}
#: Tokens that an image may have for MAX_WAITING to be the bound; where they have more on average, fewer may wait.
TOKENS_OF_ONE = DEFAULT_LIMITS.max_tokens // DEFAULT_LIMITS.max_jobs

#: Seconds after which a thread must hand Python's lock on. The thread that takes steps asks for it after each of some
#: hundred operations; with Python's own 5 ms the others kept it waiting for a tenth of its time.
_SWITCH_INTERVAL_S = 0.0003


class FluxBaseModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        instance = Instance.start(FLUX_BASE, args)
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        base = load_base(Checkpoints.from_environment(os.environ), device, dtype)
        self._sampler = Sampler(base, instance.settings.attention)
        self._previewer = Previewer(base)
        self._progress_folder = ProgressFolder.of_server(os.environ)
        settings = instance.settings
        limits = Limits(
            max_jobs=settings.max_waiting,
            max_tokens=settings.max_waiting * TOKENS_OF_ONE,
            max_rows=settings.max_rows,
            step_tokens=settings.step_tokens or STEP_TOKENS[device.type],
        )
        self._metrics = EngineMetrics(FLUX_BASE.name, instance.name, lambda: self._sampler.forward_s)
        self._engine: Engine[Denoising, Picture] = Engine(self._sampler, Scheduler(limits), self._metrics)

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            try:
                self._accept(request)
            except Exception as error:
                refused = error_response(FLUX_BASE, request.request_id(), error, in_words=_is_streamed(request))
                request.get_response_sender().send(refused, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def close(self) -> None:
        self._engine.close()
        self._metrics.close()

    def _accept(self, request: Any) -> None:
        values = read_inputs(FLUX_BASE, request)
        report = ProgressReport.open(values, self._progress_folder, self._previewer, self._engine.run_aside)
        try:
            self._submit(request, values, report)
        except Exception as error:
            report.end(error)
            raise

    def _submit(self, request: Any, values: Mapping[str, Array], report: ProgressReport) -> None:
        if refused := read_text(FLUX_BASE, REFUSAL, values):
            raise InvalidRequest(refused)
        # Read here although image_encode writes it: a wrong format must not cost a picture.
        parse_format(read_text(FLUX_BASE, OUTPUT_FORMAT, values))
        base = self._sampler.base
        parameters = SamplingParameters.from_tensors(values, base.native_side, base.token_side)
        context = _read_context(values)
        wants_pixels = PIXELS.name in request.requested_output_names()
        priority = int(PRIORITY.value_in(values))
        timeout_us = request.timeout()
        deadline = self._engine.clock() + timeout_us / 1e6 if timeout_us else None
        works = self._sampler.begin(parameters, context, values.get(INITIAL_LATENTS.name), wants_pixels)
        ticket = _Ticket(request, parameters, self._sampler.recipes(parameters), report)
        jobs: list[Job[Denoising, Picture]] = [
            Job(
                work,
                parameters.steps_to_run,
                ticket.taker(index),
                group=work.grid,
                tokens=work.most_tokens,
                priority=priority,
                deadline=deadline,
                is_wanted=ticket.is_wanted,
            )
            for index, work in enumerate(works)
        ]
        try:
            self._engine.submit(jobs, on_accepted=lambda: report.follow(jobs))
        except Overloaded:
            self._metrics.refused(len(jobs))
            raise


def _read_context(values: Mapping[str, Array]) -> Context:
    """Copies: the request's memory goes back to Triton when `execute` returns."""
    tokens, weights, pooled = (torch.tensor(values[t.name]) for t in (CONTEXT, CONTEXT_WEIGHTS, POOLED_PROJECTION))
    spans, pooled_span = values.get(CONTEXT_SPANS.name), values.get(POOLED_SPAN.name)
    return Context(
        tokens,
        weights,
        pooled,
        None if spans is None else torch.tensor(spans),
        ALWAYS if pooled_span is None else Span(*pooled_span.tolist()),
    )


class _Ticket:
    """Collects the pictures of one request and answers it once, with all of them or with the first error."""

    def __init__(
        self, request: Any, parameters: SamplingParameters, recipes: Sequence[str], report: ProgressReport
    ) -> None:
        self._sender = request.get_response_sender()
        self._request_id: str = request.request_id()
        self._is_streamed = _is_streamed(request)
        self._wanted = frozenset(request.requested_output_names())
        self._parameters = parameters
        self._recipes = recipes
        self._report = report
        self._pictures: list[Picture | None] = [None] * len(parameters.seeds)
        self._open = True
        self._lock = threading.Lock()

    def is_wanted(self) -> bool:
        return self._open and self._report.is_heard()

    def taker(self, index: int) -> Callable[[Picture | FluxError], None]:
        return lambda outcome: self._take(index, outcome)

    def _take(self, index: int, outcome: Picture | FluxError) -> None:
        """Any of the engine's threads comes here."""
        with self._lock:
            if not self._open:
                return
            if isinstance(outcome, FluxError):
                response = self._refusal(outcome)
            else:
                self._pictures[index] = outcome
                pictures = [picture for picture in self._pictures if picture is not None]
                if len(pictures) < len(self._pictures):
                    return
                try:
                    response = self._answer(pictures)
                except Exception as error:
                    response = self._refusal(error)
            self._open = False
        self._report.end(outcome if isinstance(outcome, FluxError) else None)
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _refusal(self, error: Exception) -> Any:
        return error_response(FLUX_BASE, self._request_id, error, in_words=self._is_streamed)

    def _answer(self, pictures: Sequence[Picture]) -> Any:
        outputs = {
            OUTPUT_SEED: OUTPUT_SEED.array(self._parameters.seeds),
            RECIPE: RECIPE.array(self._recipes),
            LATENTS: np.stack([picture.latents for picture in pictures]),
        }
        if PIXELS.name in self._wanted:
            outputs[PIXELS] = np.stack([picture.rgb for picture in pictures if picture.rgb is not None])
        return answer(self._wanted, outputs)


def _is_streamed(request: Any) -> bool:
    """Whether `flux_stream` is the caller, to which only the words of an error come back."""
    return pb_utils.get_input_tensor_by_name(request, PROGRESS_ADDRESS.name) is not None
