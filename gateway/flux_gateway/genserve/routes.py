"""GenServe's endpoints."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from flux_client import ImageResult
from flux_contract.environment import shown
from flux_contract.modes import MODES, Mode
from flux_contract.parameters import CONTROL_IMAGE
from flux_gateway.generation_service import GenerationService
from flux_gateway.genserve.schema import CONTROLNET_TYPE, GenerateAnswer, GenerateRequest
from flux_gateway.images import as_text, size_of
from flux_gateway.parameter_fields import takes
from flux_gateway.reading import body_of, read
from flux_gateway.refusals import Refusal, documented

NAME = "flux-triton"
#: `gpu_id` if there is no image or its metadata does not name the device.
UNKNOWN_GPU = "triton"
#: Suffix of adapter files.
LORA_SUFFIX = ".safetensors"


def genserve(service: GenerationService, loras_folder: Path | None) -> APIRouter:
    """Return the routes of GenServe's API. loras_folder: folder with Triton's adapters."""
    router = APIRouter(tags=["GenServe"])

    async def answered(request: Request) -> JSONResponse:
        started, request_id = time.monotonic(), request.state.id
        slot = service.slot(request)
        asked = await read(request, GenerateRequest)
        wanted = asked.wanted()
        try:
            (result,) = await service.made(request, slot, wanted, request_id)
            outcome = _image(result)
        except Refusal as refusal:
            # GenServe's clients read `error` from a 200 response. Caller errors and overload keep their status.
            if refusal.status not in (500, 504):
                raise
            outcome = {"success": False, "error": refusal.words, "gpu_id": UNKNOWN_GPU}
        answer = GenerateAnswer(
            task_id=_task_id(request_id),
            elapsed_time=round(time.monotonic() - started, 3),
            model_id=asked.model_name,
            mode=asked.mode_name,
            controlnet_type=CONTROLNET_TYPE if takes(wanted.mode, CONTROL_IMAGE) else None,
            **outcome,
        )
        return JSONResponse(answer.model_dump())

    for path, kind, summary in (
        ("/generate", "application/json", "Generate one image from JSON"),
        ("/generate/upload", "multipart/form-data", "Generate one image from a form with files"),
    ):
        router.post(
            path,
            summary=summary,
            description="Returns the image as base64 PNG. `mode` selects what to do and which fields are required.",
            response_model=GenerateAnswer,
            responses=documented(GenerateAnswer),
            openapi_extra=body_of(GenerateRequest, kind),
        )(answered)

    @router.get("/models", summary="List the models that are served, with their modes")
    async def models() -> dict[str, Any]:
        """Return the models whose modes are ready."""
        return {"models": _served_models(service.monitor.modes)}

    @router.get("/status", summary="Report running requests and the load of each instance")
    async def status() -> dict[str, Any]:
        """Return running requests and the load of the instances. For readiness, use `/health`."""
        return {
            "status": service.monitor.reason or "running",
            "modes": service.monitor.modes,
            "requests_in_work": service.in_work,
            "requests_at_most": service.room,
            "instances": [
                {**asdict(instance), "seconds_left": round(instance.seconds_left, 3)}
                for instance in service.monitor.instances
            ],
        }

    @router.get("/loras", summary="List the LoRA adapters of the server")
    async def loras() -> dict[str, Any]:
        """Return the names of LoRA adapters for `loras`."""
        files = loras_folder.glob(f"*{LORA_SUFFIX}") if loras_folder is not None else ()
        names = sorted(shown(file.name).removesuffix(LORA_SUFFIX) for file in files if file.is_file())
        return {"loras": [{"name": name} for name in names]}

    return router


def _served_models(served: Collection[str], modes: Sequence[Mode] = MODES) -> list[dict[str, Any]]:
    """Return GenServe's description of each model with a ready mode. served: names of ready modes."""
    features: dict[str, list[Mode]] = {}
    for mode in modes:
        if mode.name in served:
            features.setdefault(mode.genserve_model, []).append(mode)
    return [
        {
            "model_id": model_id,
            "model_name": model_id,
            "description": "; ".join(mode.purpose for mode in of_model).capitalize(),
            "total_gpu_processes": 1,
            "available_gpu_processes": 1,
            "supported_features": [mode.genserve for mode in of_model],
        }
        for model_id, of_model in features.items()
    ]


def failed(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """Return GenServe's body of a refusal, with `success` and `error`, whatever the status."""
    return GenerateAnswer(
        success=False, task_id=_task_id(request_id), elapsed_time=0.0, error=refusal.words, detail=refusal.words
    ).model_dump()


def gpu_of(result: ImageResult) -> str:
    """Return the device in the image's recipe, such as `cuda:7` or `cpu`."""
    device = (result.recipe or {}).get("device")
    return device if isinstance(device, str) and device else UNKNOWN_GPU


def _image(result: ImageResult) -> dict[str, Any]:
    width, height = size_of(result.data)
    return {
        "success": True,
        "image_base64": as_text(result.data),
        "gpu_id": gpu_of(result),
        "seed": result.seed,
        "width": width,
        "height": height,
    }


def _task_id(request_id: str) -> str:
    return str(uuid.UUID(request_id))
