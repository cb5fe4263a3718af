"""A request's body to a checked value: JSON or a form, of the same names, by the same schema."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from flux_gateway.form_fields import form_fields
from flux_gateway.refusals import Refusal

#: Fields and files of one form, and bytes of a field that is no file: one may be a picture in base64.
_MOST_PARTS, _FIELD_BYTES = 100, 48 * 2**20
_Schema = TypeVar("_Schema", bound=BaseModel)


async def read(request: Request, schema: type[_Schema]) -> _Schema:
    """Raises Refusal: 400, it cannot be parsed; 415, another type; 422, a field is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        fields = await _json(request)
    elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        fields = await _form(request)
    else:
        raise Refusal(415, f"Content-Type {kind or '(none)'!r}, expected application/json or multipart/form-data")
    return checked(schema, fields)


def checked(schema: type[_Schema], fields: dict[str, Any]) -> _Schema:
    """Raises Refusal: 422."""
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        first, *_ = error.errors(include_url=False, include_context=False, include_input=False)
        name = ".".join(str(part) for part in first["loc"]) or None
        words = str(first["msg"]).removeprefix("Value error, ")
        raise Refusal(422, f"{name}: {words}" if name else words, name) from None


async def _json(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}"[:300]) from None
    if not isinstance(fields, dict):
        raise Refusal(422, "the body is no JSON object")
    return fields


async def _form(request: Request) -> dict[str, Any]:
    """Files as their bytes."""
    parts: list[tuple[str, str | bytes]] = []
    async with request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS, max_part_size=_FIELD_BYTES) as form:
        for name, value in form.multi_items():
            parts.append((name, await value.read() if isinstance(value, UploadFile) else value))
    return dict(form_fields(parts))


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of a body that `read` reads, with nothing outside it."""
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inlined(inner[part["$ref"].rpartition("/")[2]])
            return {name: inlined(value) for name, value in part.items()}
        return [inlined(value) for value in part] if isinstance(part, list) else part

    whole: dict[str, Any] = inlined(schema)
    return whole


def body_of(model: type[BaseModel], *kinds: str) -> dict[str, Any]:
    """For OpenAPI: an operation whose body `read` reads. kinds: its media types."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema_of(model)} for kind in kinds}}}
