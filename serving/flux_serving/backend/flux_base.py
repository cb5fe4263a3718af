"""`flux_base`: generates images from weighted context tokens.

`execute` parses each request into `BaseOptions` and submits jobs to the engine, whose thread responds through the
request's response sender. Every request gets exactly one response.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from flux_contract.errors import InvalidRequest, Overloaded
from flux_contract.internal_tensors import LATENTS, PIXELS
from flux_contract.models import FLUX_BASE
from flux_contract.tensors import Array
from flux_serving.backend.accepted_request import AcceptedRequest
from flux_serving.backend.adapters import Adapters
from flux_serving.backend.base_options import BaseOptions, UnchangedImage, group_hash, read_base_options
from flux_serving.backend.health import HEALTH, WatchedRunner
from flux_serving.backend.instance import Instance
from flux_serving.backend.metrics import EngineMetrics
from flux_serving.backend.progress_channel import ProgressFolder
from flux_serving.backend.progress_report import ProgressReport
from flux_serving.backend.reply import Reply, TritonReply, is_streamed, refuse_surely
from flux_serving.backend.server_folder import ServerFolder
from flux_serving.backend.wire import read_inputs, refuse
from flux_serving.backend.work_sharing import WorkSharing
from flux_serving.images.image_size import Sides
from flux_serving.network.weights import choose_dtype, load_base, open_device
from flux_serving.sampling.denoising import Denoising
from flux_serving.sampling.preview import Previewer
from flux_serving.sampling.sampler import GeneratedImage, Sampler
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.observer import Observers
from flux_serving.scheduling.scheduler import DEFAULT_LIMITS, Limits, Scheduler
from flux_serving.settings import Checkpoints

#: Default maximum of tokens that share a step. On a CPU, larger batches gain nothing beyond a thousand tokens
#: (docs/performance.md); on an H100, beyond four images of 512 x 512 pixels (docs/gpu.md).
STEP_TOKENS = {"cpu": 2048, "cuda": 8192}
#: Tokens of an image for which MAX_WAITING is the limit; if images have more tokens on average, fewer may wait.
TOKENS_OF_ONE = DEFAULT_LIMITS.max_tokens // DEFAULT_LIMITS.max_jobs

_BROKEN = "a thread of the engine has failed"
_RESTARTING = "this model's process is ending and must be restarted"

#: Seconds after which a thread must release Python's global interpreter lock. The thread that runs steps requests it
#: after each of some hundred operations; with Python's default of 5 ms, it spent a tenth of its time waiting.
_SWITCH_INTERVAL_S = 0.0003


class FluxBaseModel:
    """One instance of the model. The engine, work sharing and metrics have their own threads; one loads adapters."""

    def __init__(self, args: Mapping[str, str]) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        instance = self._instance = Instance.start(FLUX_BASE, args)
        settings = instance.settings
        device = open_device(instance.device)
        checkpoints = Checkpoints.from_environment(os.environ)
        base = load_base(checkpoints, device, choose_dtype(settings.dtype, device))
        self._parse = partial(
            read_base_options,
            sides=Sides(base.native_side, base.token_side),
            default_steps=settings.default_steps or base.default_steps,
        )
        self._sampler = Sampler(base, settings.attention)
        self._previewer = Previewer(base)
        self._progress_folder = ProgressFolder.of_server(os.environ)
        limits = Limits(
            max_jobs=settings.max_waiting,
            max_tokens=settings.max_waiting * TOKENS_OF_ONE,
            max_rows=settings.max_rows,
            step_tokens=settings.step_tokens or STEP_TOKENS[device.type],
        )
        sharing = self._sharing = WorkSharing(
            ServerFolder.of_server(os.environ),
            instance.name,
            instance.device,
            limits,
            self._take,
            lambda images: self._metrics.handed_over(images),
        )
        self._metrics = EngineMetrics(
            FLUX_BASE.name, instance.name, lambda: self._sampler.forward_s, lambda: sharing.seconds_left
        )
        runner: WatchedRunner[Denoising, GeneratedImage] = WatchedRunner(self._sampler)
        scheduler = Scheduler(limits)
        self._engine: Engine[Denoising, GeneratedImage] = Engine(
            runner, scheduler, Observers(sharing, self._metrics), on_broken=lambda: HEALTH.end(_BROKEN)
        )
        HEALTH.watch(runner.stuck, close=self._abort)
        self._adapters = Adapters(checkpoints.loras, self._sampler.transformer, settings.max_adapters)
        # Adapters are read from files, which must delay neither the steps nor requests without adapters.
        self._loader = ThreadPoolExecutor(1, "adapters")
        self._loads = threading.BoundedSemaphore(settings.max_waiting)
        sharing.begin(scheduler.load)
        instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            try:
                HEALTH.check()
                values = read_inputs(FLUX_BASE, request)
                reply = TritonReply(request)
            except BaseException as error:
                refuse(FLUX_BASE, request, error, in_words=is_streamed(request))
                continue
            try:
                options = self._parse(values)
                is_handed_over = self._sharing.hand_over(reply, values, options.planned_jobs)
            except BaseException as error:
                refuse_surely(reply, error)
                continue
            if not is_handed_over:
                self._start(reply, options)

    def close(self) -> None:
        self._sharing.close()
        self._engine.close()
        self._loader.shutdown()
        self._metrics.close()
        self._instance.close()

    def _abort(self) -> None:
        """Answer every request, because the process is ending."""
        self._sharing.cancel()
        self._engine.close(Overloaded(_RESTARTING))

    def _take(self, reply: Reply, values: Mapping[str, Array]) -> None:
        """Start a request that another instance handed over or did not accept. Does not raise."""
        try:
            options = self._parse(values)
        except BaseException as error:
            refuse_surely(reply, error)
        else:
            self._start(reply, options)

    def _start(self, reply: Reply, options: BaseOptions) -> None:
        """Start a request in this instance. Does not raise."""
        accepted = None
        try:
            report = ProgressReport.open(
                options.progress_address,
                options.preview,
                self._progress_folder,
                self._previewer,
                self._engine.run_aside,
            )
            accepted = AcceptedRequest(reply, report)
            self._accept(accepted, options)
        except BaseException as error:
            if accepted is not None:
                accepted.fail(error)
            else:
                refuse_surely(reply, error)

    def _accept(self, accepted: AcceptedRequest, options: BaseOptions) -> None:
        """Submit the request's jobs, after its adapters have loaded. Raises Overloaded: there is no room."""
        if not options.parameters.loras:
            self._begin(accepted, options)
        elif self._loads.acquire(blocking=False):
            try:
                self._sharing.expect(accepted, options.planned_jobs())
                loading = self._loader.submit(self._begin, accepted, options)
            except BaseException:
                self._loads.release()
                self._sharing.arrived(accepted)
                raise
            loading.add_done_callback(partial(self._loaded, accepted))
        else:
            raise Overloaded("no room for one more request with adapters")

    def _loaded(self, accepted: AcceptedRequest, loading: Future[None]) -> None:
        """Handle the end of loading the request's adapters, including cancellation and failure."""
        self._loads.release()
        self._sharing.arrived(accepted)
        if loading.cancelled() or loading.exception() is not None:
            accepted.fail(loading.exception() or Overloaded(_RESTARTING))

    def _begin(self, accepted: AcceptedRequest, options: BaseOptions) -> None:
        """Submit the request's jobs, or respond with the error. Does not raise."""
        try:
            self._submit(accepted, options)
        except BaseException as error:
            accepted.fail(error)

    def _submit(self, accepted: AcceptedRequest, options: BaseOptions) -> None:
        parameters, inputs = options.parameters, options.inputs
        made_on = {"instance": self._instance.name, "device": self._instance.device}
        recipes = [json.dumps(recipe | made_on) for recipe in self._sampler.recipes(parameters)]
        accepted.expect(parameters.seeds, recipes)
        if isinstance(inputs, UnchangedImage):
            image = _unchanged(inputs, accepted)
            for index in range(len(parameters.seeds)):
                accepted.taker(index)(image)
            return
        works = self._sampler.begin(
            parameters,
            inputs,
            self._adapters.adapted(parameters.loras) if parameters.loras else None,
            is_decoded=accepted.wants(PIXELS),
        )
        jobs: list[Job[Denoising, GeneratedImage]] = [
            Job(
                work,
                work.steps_left,
                accepted.taker(index),
                group=work.group,
                group_hash=group_hash(parameters),
                tokens=work.most_tokens,
                rows=work.most_rows,
                priority=options.priority,
                deadline=self._engine.clock() + accepted.timeout_us / 1e6 if accepted.timeout_us else None,
                is_wanted=accepted.is_wanted,
            )
            for index, work in enumerate(works)
        ]
        try:
            self._engine.submit(jobs, on_accepted=lambda: accepted.begin(jobs))
        except Overloaded:
            self._metrics.refused(len(jobs))
            raise


def _unchanged(image: UnchangedImage, accepted: AcceptedRequest) -> GeneratedImage:
    """Returns the unchanged image as a result.

    Raises InvalidRequest: its latents are requested, but it is not encoded.
    """
    if accepted.wants(LATENTS) and image.latents.size == 1:
        raise InvalidRequest(f"{LATENTS.name} is not available for an image that stays unchanged: it is not encoded")
    return GeneratedImage(image.latents, image.pixels)
