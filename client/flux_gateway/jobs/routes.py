"""The endpoints of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from flux_gateway.desk import Desk, while_there
from flux_gateway.jobs.job import Job
from flux_gateway.jobs.runner import JobRunner
from flux_gateway.jobs.schema import JobAnswer, JobEnd, JobImage, JobRequest
from flux_gateway.openai_images.bodies import ErrorAnswer
from flux_gateway.pictures import max_encoded_bytes
from flux_gateway.reading import body_of, read
from flux_gateway.refusals import documented
from flux_gateway.results import ResultStore

_NOT_FOUND = documented(ErrorAnswer, 401, 404)


def jobs(desk: Desk, runner: JobRunner, results: ResultStore) -> APIRouter:
    """results: those that the runner uses."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post(
        "",
        status_code=202,
        response_model=JobAnswer,
        responses=documented(ErrorAnswer),
        openapi_extra=body_of(JobRequest, "application/json", "multipart/form-data"),
    )
    async def start(request: Request) -> JSONResponse:
        """Begin a generation; it goes on when you hang up."""
        caller = desk.caller(request)
        asked = await read(request, JobRequest)
        wanted = asked.wanted()
        # A preview goes when its image comes, and is never larger.
        (room,) = results.reserve(caller.name, 1, asked.n * max_encoded_bytes(*desk.checked_size(wanted)))
        try:
            events = desk.events(caller, wanted, request.state.id, asked.previews)
            # What is refused is refused with its status, before there is a job.
            first = await while_there(request, anext(events))
        except BaseException:
            room.release()
            raise
        job = Job(request.state.id, asked.mode_name, asked.n)
        runner.start(job, room, first, events)
        return JSONResponse(JobAnswer.of_job(job).model_dump(), 202, {"Location": f"/v1/jobs/{job.name}"})

    @router.get("/{job_id}", response_model=JobAnswer, responses=_NOT_FOUND)
    async def job(request: Request, job_id: str) -> JobAnswer:
        """How far it is, with previews, and at the end the pictures."""
        return JobAnswer.of_job(runner.job(job_id, desk.caller(request).name))

    @router.delete("/{job_id}", response_model=JobAnswer, responses=_NOT_FOUND)
    async def remove(request: Request, job_id: str) -> JobAnswer:
        """Cancel it, if it runs, and forget it."""
        found = runner.job(job_id, desk.caller(request).name)
        await runner.remove(found)
        return JobAnswer.of_job(found)

    @router.get(
        "/{job_id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **_NOT_FOUND},
    )
    async def events(request: Request, job_id: str) -> StreamingResponse:
        """`image` with an image as it stands, again after each change, and `done` at the end."""
        found = runner.job(job_id, desk.caller(request).name)
        return StreamingResponse(_told(found), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


async def _told(job: Job) -> AsyncGenerator[str, None]:
    async for image in job.changes():
        yield (
            ": still at it\n\n" if image is None else f"event: image\ndata: {JobImage.of(image).model_dump_json()}\n\n"
        )
    yield f"event: done\ndata: {JobEnd.of_job(job).model_dump_json()}\n\n"
