"""Base class of the request schemas."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

#: Keys of a property's schema that do not affect its type.
_ANNOTATIONS = ("title", "description", "default", "examples")


class RequestBody(BaseModel):
    """Object in a request, from JSON or a form. Unknown fields are ignored; null selects the field's default."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Allow null in every field that is not required."""
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        required = described.get("required", ())
        for name, field in described["properties"].items():
            if name not in required:
                described["properties"][name] = _nullable(field)
        return schema


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    if null in field.get("anyOf", ()):
        return field
    annotations = {name: value for name, value in field.items() if name in _ANNOTATIONS}
    kind = {name: value for name, value in field.items() if name not in _ANNOTATIONS}
    kinds = kind["anyOf"] if kind.keys() == {"anyOf"} else [kind]
    return {"anyOf": [*kinds, null], **annotations}
