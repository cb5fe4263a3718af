"""GenServe's endpoints."""

from __future__ import annotations

import base64
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from flux_client import Variation
from flux_gateway.desk import Desk
from flux_gateway.genserve.schema import CONTROLNET_TYPE, MODES, GenerateAnswer, GenerateRequest
from flux_gateway.reading import read, schema_of
from flux_gateway.refusals import Refusal

NAME = "flux-triton"
#: GenServe names the card. Triton chooses the instance, and does not tell which.
GPU_ID = "triton"
_DESCRIPTIONS = {
    "flux1-redux-dev": "Variations of pictures: FLUX.1 Redux",
    "flux1-dev": "Pictures of a prompt, and changed pictures",
    "flux1-canny-dev": "Pictures along the edges of another: a ControlNet",
}


def genserve(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["GenServe"])

    async def answered(request: Request) -> JSONResponse:
        started, request_id = time.monotonic(), request.state.id
        caller = desk.caller(request)
        asked = await read(request, GenerateRequest)
        wanted = asked.wanted()
        try:
            (variation,) = await desk.made(request, caller, wanted, request_id)
            outcome = _picture(variation)
        except Refusal as refusal:
            # Its clients read `error` where the status is 200; what the caller or the load is to blame for is said so.
            if refusal.status not in (500, 504):
                raise
            outcome = {"success": False, "error": refusal.words}
        answer = GenerateAnswer(
            task_id=_task_id(request_id),
            elapsed_time=round(time.monotonic() - started, 3),
            gpu_id=GPU_ID,
            model_id=asked.model_name,
            mode=asked.mode_name,
            controlnet_type=CONTROLNET_TYPE if wanted.mode == "canny" else None,
            **outcome,
        )
        return JSONResponse(answer.model_dump())

    for path, kind in (("/generate", "application/json"), ("/generate/upload", "multipart/form-data")):
        router.post(
            path,
            response_model=GenerateAnswer,
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {kind: {"schema": schema_of(GenerateRequest)}},
                }
            },
        )(answered)

    @router.get("/models")
    async def models() -> dict[str, Any]:
        served: dict[str, list[str]] = {}
        for name, (mode, model_id) in MODES.items():
            if mode in desk.watch.modes:
                served.setdefault(model_id, []).append(name)
        return {
            "models": [
                {
                    "model_id": model_id,
                    "model_name": model_id,
                    "description": _DESCRIPTIONS[model_id],
                    "total_gpu_processes": 1,
                    "available_gpu_processes": 1,
                    "supported_features": features,
                }
                for model_id, features in served.items()
            ]
        }

    return router


def failed(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """A refusal in GenServe's body: always JSON, with `success` and `error`, whatever the status."""
    return GenerateAnswer(
        success=False, task_id=_task_id(request_id), elapsed_time=0.0, error=refusal.words, detail=refusal.words
    ).model_dump()


def _picture(variation: Variation) -> dict[str, Any]:
    return {
        "success": True,
        "image_base64": base64.b64encode(variation.data).decode(),
        "seed": variation.seed,
        "width": variation.image.width,
        "height": variation.image.height,
    }


def _task_id(request_id: str) -> str:
    return str(uuid.UUID(request_id))
