"""OpenAI's endpoints that list models."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from flux_contract.modes import MODES
from flux_gateway.generation_service import GenerationService
from flux_gateway.openai_images.bodies import ErrorAnswer
from flux_gateway.openai_images.schema import REQUESTS
from flux_gateway.refusals import Refusal, documented

_OWNER = "flux-triton"


class ModelAnswer(BaseModel):
    """A model. created: Unix time in seconds at which the gateway started."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = _OWNER


class ModelsAnswer(BaseModel):
    """Models that are ready."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


def openai_models(service: GenerationService) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["OpenAI"])
    created = int(time.time())

    def served() -> list[ModelAnswer]:
        names = {request.mode.name for request in REQUESTS} & {*service.monitor.modes}
        ids = dict.fromkeys(mode.genserve_model for mode in MODES if mode.name in names)
        return [ModelAnswer(id=model_id, created=created) for model_id in ids]

    @router.get("", summary="List the models that are ready", responses=documented(ErrorAnswer, 401))
    async def models(request: Request) -> ModelsAnswer:
        """Return the models whose modes are ready. Requests may name any `model`."""
        service.caller(request)
        return ModelsAnswer(data=served())

    @router.get("/{model_id:path}", summary="Describe one model", responses=documented(ErrorAnswer, 401, 404))
    async def model(request: Request, model_id: str) -> ModelAnswer:
        """Return one model."""
        service.caller(request)
        found = next((each for each in served() if each.id == model_id), None)
        if found is None:
            raise Refusal(
                404, f"model {model_id[:80]!r} does not exist or is not ready", "model", code="model_not_found"
            )
        return found

    return router
