"""The endpoints of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from flux_gateway.admission import Slot
from flux_gateway.conversions import converted
from flux_gateway.generation_service import GenerationService, while_there
from flux_gateway.images import max_encoded_bytes
from flux_gateway.jobs.job import GenerationJob
from flux_gateway.jobs.runner import JobRunner
from flux_gateway.jobs.schema import JobAnswer, JobEnd, JobImage, JobRequest
from flux_gateway.openai_images.bodies import ErrorAnswer
from flux_gateway.reading import body_of, read
from flux_gateway.refusals import RETRY_AFTER_S, Refusal, documented
from flux_gateway.results import ResultStore

#: Bytes of memory of a response for each byte of its images: base64 and JSON.
_ANSWER_COPIES = 4
#: Bytes of memory of an event: an incompressible image of 1024x1024 pixels as base64.
_EVENT_BYTES = 4 * 1024 * 1024
#: Maximum readers of one job's events. Each of them gets its own copy of every event.
_MAX_WATCHERS = 8
_NOT_FOUND = documented(ErrorAnswer, 401, 403, 404, 421, 429, 503)


def jobs(service: GenerationService, runner: JobRunner, results: ResultStore) -> APIRouter:
    """Return the routes of jobs. results: the store of the runner."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post(
        "",
        summary="Start a generation as a job",
        status_code=202,
        response_model=JobAnswer,
        responses=documented(ErrorAnswer),
        openapi_extra=body_of(JobRequest, "application/json", "multipart/form-data"),
    )
    async def start(request: Request) -> JSONResponse:
        """Start a generation in the background. It continues if the client disconnects."""
        slot = service.slot(request)
        asked = await read(request, JobRequest)
        wanted = asked.wanted()
        # An image replaces its preview, which is never larger.
        (room,) = results.reserve(slot.caller.name, 1, wanted.count * max_encoded_bytes(*service.checked_size(wanted)))
        try:
            events = service.events(slot, wanted, request.state.id, asked.previews)
            # An error before the first event is answered with its status, without a job.
            first = await while_there(request, anext(events))
        except BaseException:
            room.release()
            raise
        job = GenerationJob(request.state.id, asked.mode_name, wanted.count)
        runner.start(job, room, first, events)
        return JSONResponse(JobAnswer.of_job(job).model_dump(), 202, {"Location": f"/v1/jobs/{job.name}"})

    @router.get(
        "/{job_id}",
        summary="Get the progress, previews and images of a job",
        response_model=JobAnswer,
        responses=_NOT_FOUND,
    )
    async def job(request: Request, job_id: str) -> Response:
        """Return the progress of a job with previews, and the images after its end."""
        found = runner.job(job_id, service.caller(request).name)
        request.state.slot.reserve(_ANSWER_COPIES * found.size)
        return await _answer(found)

    @router.delete("/{job_id}", summary="Cancel and remove a job", response_model=JobAnswer, responses=_NOT_FOUND)
    async def remove(request: Request, job_id: str) -> Response:
        """Cancel a running job, and delete it."""
        found = runner.job(job_id, service.caller(request).name)
        request.state.slot.reserve(_ANSWER_COPIES * found.size)
        await runner.remove(found)
        return await _answer(found)

    @router.get(
        "/{job_id}/events",
        summary="Stream the progress, previews and images of a job",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **_NOT_FOUND},
    )
    async def events(request: Request, job_id: str) -> StreamingResponse:
        """Stream server-sent events: `image` after each change of an image, and `done` at the end."""
        found = runner.job(job_id, service.caller(request).name)
        if found.watchers >= _MAX_WATCHERS:
            raise Refusal(429, f"concurrency limit exceeded ({_MAX_WATCHERS} readers per job)", None, RETRY_AFTER_S)
        slot: Slot = request.state.slot
        slot.reserve(_EVENT_BYTES)
        found.watchers += 1
        slot.when_free(found.leave)
        return StreamingResponse(
            _events_of(found), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return router


async def _answer(job: GenerationJob) -> Response:
    text = await converted(job.size, lambda: JobAnswer.of_job(job).model_dump_json())
    return Response(text, media_type="application/json")


async def _events_of(job: GenerationJob) -> AsyncGenerator[str, None]:
    async for image in job.changes():
        yield (
            ": heartbeat\n\n" if image is None else f"event: image\ndata: {JobImage.of(image).model_dump_json()}\n\n"
        )
    yield f"event: done\ndata: {JobEnd.of_job(job).model_dump_json()}\n\n"
