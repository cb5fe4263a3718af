"""A request's body to a checked value: JSON or a form, of the same names, by the same schema."""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError, WithJsonSchema
from starlette.requests import ClientDisconnect, Request

from flux_gateway.conversions import converted
from flux_gateway.desk import Gone
from flux_gateway.parsing import json_fields, multipart_items, urlencoded_items
from flux_gateway.refusals import Refusal
from flux_serving.contract import limits

#: Bytes of a form's field that is no file: one may be a picture in base64.
_FIELD_BYTES = 48 * 2**20
_Schema = TypeVar("_Schema", bound=BaseModel)


async def read(request: Request, schema: type[_Schema]) -> _Schema:
    """The request's fields, checked. A large body is parsed in a thread.

    Raises Refusal: 400, it cannot be parsed; 415, another type; 422, a field is wrong; and those of `LimitedBody`.
    Raises Gone: the client disconnected.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            items = await multipart_items(content_type, request.stream(), _FIELD_BYTES)
            size = sum(len(value) for _, value in items)
            return await converted(size, lambda: checked(schema, _form(items)))
        if kind == "application/json":
            body = await _whole(request)
            return await converted(len(body), lambda: checked(schema, json_fields(body)))
        if kind == "application/x-www-form-urlencoded":
            body = await _whole(request)
            return await converted(len(body), lambda: checked(schema, _form(urlencoded_items(body))))
    except ClientDisconnect:
        raise Gone() from None
    raise Refusal(415, f"Content-Type {kind or '(none)'!r}, expected application/json or multipart/form-data")


async def _whole(request: Request) -> bytearray:
    body = bytearray()
    async for piece in request.stream():
        body += piece
    return body


def checked(schema: type[_Schema], fields: dict[str, Any]) -> _Schema:
    """Raises Refusal: 422."""
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        first, *_ = error.errors(include_url=False, include_context=False, include_input=False)
        name = ".".join(str(part) for part in first["loc"]) or None
        words = str(first["msg"]).removeprefix("Value error, ")
        raise Refusal(422, f"{name}: {words}" if name else words, name) from None


def _form(items: Iterable[tuple[str, str | bytes]]) -> dict[str, Any]:
    """What comes several times, or is called `name[]`, as a list. Empty fields are not there."""
    fields: dict[str, Any] = {}
    for name, content in items:
        if content == "":
            continue
        if name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(content)
        elif name in fields:
            before = fields[name]
            fields[name] = [*(before if isinstance(before, list) else [before]), content]
        else:
            fields[name] = content
    return fields


def _picture(value: object) -> object:
    """base64, with or without the prefix of a data URL, or a file's bytes. It is never a path, however short."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            value = base64.b64decode(text.encode("ascii").translate(None, string.whitespace.encode()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("expected a picture in base64, or a file") from None
    if not isinstance(value, bytes):
        raise ValueError("expected a picture in base64, or a file")
    if len(value) > limits.MAX_PICTURE_BYTES:
        raise ValueError(f"a picture of {len(value)} bytes, expected at most {limits.MAX_PICTURE_BYTES}")
    return value


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


#: An encoded picture.
PictureBytes = Annotated[
    bytes,
    BeforeValidator(_picture),
    WithJsonSchema({"type": "string", "description": "base64, with or without `data:image/...;base64,`; or a file"}),
]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


#: One or several of them.
PictureList = Annotated[list[PictureBytes], BeforeValidator(_listed)]
