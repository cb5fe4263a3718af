"""Reads and validates request bodies. JSON and forms have the same field names and the same schema."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from flux_gateway.conversions import converted
from flux_gateway.form_fields import form_fields
from flux_gateway.generation_service import ClientDisconnected
from flux_gateway.parsing import json_fields, multipart_items, urlencoded_items
from flux_gateway.refusals import Refusal

#: Maximum bytes of a form's field that is not a file. It may be an image in base64.
_FIELD_BYTES = 48 * 2**20
_Schema = TypeVar("_Schema", bound=BaseModel)


async def read(request: Request, schema: type[_Schema]) -> _Schema:
    """Read and validate the body. A large body is parsed in a thread.

    Raises Refusal: 400, invalid syntax; 415, unsupported type; 422, invalid field; and those of `LimitedBody`.
    Raises ClientDisconnected: the client disconnected.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            items = await multipart_items(content_type, request.stream(), _FIELD_BYTES)
            size = sum(len(value) for _, value in items)
            return await converted(size, lambda: checked(schema, dict(form_fields(items))))
        if kind == "application/json":
            body = await _whole(request)
            return await converted(len(body), lambda: checked(schema, json_fields(body)))
        if kind == "application/x-www-form-urlencoded":
            body = await _whole(request)
            return await converted(len(body), lambda: checked(schema, dict(form_fields(urlencoded_items(body)))))
    except ClientDisconnect:
        raise ClientDisconnected() from None
    raise Refusal(415, f"Content-Type {kind or '(none)'!r}, expected application/json or multipart/form-data")


async def _whole(request: Request) -> bytearray:
    body = bytearray()
    async for piece in request.stream():
        body += piece
    return body


def checked(schema: type[_Schema], fields: dict[str, Any]) -> _Schema:
    """Validate the fields. Raises Refusal: 422."""
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        first, *_ = error.errors(include_url=False, include_context=False, include_input=False)
        name = ".".join(str(part) for part in first["loc"]) or None
        words = str(first["msg"]).removeprefix("Value error, ")
        raise Refusal(422, f"{name}: {words}" if name else words, name) from None


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a body, without references."""
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
    """Return the OpenAPI description of a body. kinds: its media types."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema_of(model)} for kind in kinds}}}
