"""Schemas of job requests and responses."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from flux_client import ImageResult, Preview
from flux_contract.parameters import NUM_IMAGES, OUTPUT_FORMAT
from flux_gateway.genserve.schema import GenerateRequest
from flux_gateway.images import as_text, size_of
from flux_gateway.jobs.job import GenerationJob, ImageState, Status
from flux_gateway.openai_images.bodies import ErrorDetails, error_details
from flux_gateway.parameter_fields import ParameterField, with_fields

_Request = TypeVar("_Request", bound=GenerateRequest)


def with_output_fields(request: type[_Request]) -> type[_Request]:
    """Decorator: adds the number and the format of the images, as in OpenAI's API."""
    parameters = (NUM_IMAGES, OUTPUT_FORMAT)
    fields = [ParameterField(each, each.openai) for each in parameters if each.openai is not None]
    return with_fields(request, fields)


@with_output_fields
class JobRequest(GenerateRequest):
    """Fields of `POST /generate`, the number and format of the images, and whether to generate previews."""

    previews: bool = True


class JobImage(BaseModel):
    """One image: completed and total steps, a JPEG preview, and after the end the image, its seed and its size."""

    index: int
    step: int
    steps: int
    preview_b64_json: str | None
    b64_json: str | None
    seed: int | None
    width: int | None
    height: int | None

    @classmethod
    def of(cls, image: ImageState) -> JobImage:
        result = image.result
        width, height = (None, None) if result is None else size_of(result.data)
        return cls(
            index=image.index,
            step=image.step,
            steps=image.steps,
            preview_b64_json=_text_of(image.preview),
            b64_json=_text_of(result),
            seed=None if result is None else result.seed,
            width=width,
            height=height,
        )


class JobEnd(BaseModel):
    """Status of a job, without its images. error: why it failed."""

    id: str
    status: Status
    error: ErrorDetails | None

    @classmethod
    def of_job(cls, job: GenerationJob) -> JobEnd:
        return cls(id=job.name, status=job.status, error=None if job.error is None else error_details(job.error))


class JobAnswer(JobEnd):
    """A job with its images. created_at, expires_at: Unix time in seconds; a job expires some time after its end."""

    mode: str
    created_at: int
    expires_at: int | None
    images: list[JobImage]

    @classmethod
    def of_job(cls, job: GenerationJob) -> JobAnswer:
        return cls(
            **dict(JobEnd.of_job(job)),
            mode=job.mode,
            created_at=job.created_at,
            expires_at=job.expires_at,
            images=[JobImage.of(image) for image in job.images],
        )


def _text_of(image: Preview | ImageResult | None) -> str | None:
    return None if image is None else as_text(image.data)
