"""Derives REST fields from the contract's parameters, and converts a request's values to client keywords."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AliasChoices,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
)
from pydantic.fields import FieldInfo

from flux_contract import limits
from flux_contract.modes import Mode
from flux_contract.parameter import Parameter, RestField
from flux_contract.parameters import IMAGE, NEGATIVE_PROMPT, PROMPT, TRUE_CFG_SCALE
from flux_contract.tensors import Bounds, DType
from flux_gateway.refusals import Refusal
from flux_gateway.request_body import RequestBody

Value = int | float | str
_TYPES: dict[DType, type[Value]] = {DType.INT32: int, DType.INT64: int, DType.FP32: float, DType.BYTES: str}
_TENSOR_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


@dataclass(frozen=True)
class ParameterField:
    """A parameter as a field of a REST API.

    required: whether the API rejects a request without the field. default_note: how the default depends on the rest of
    the request; empty if it is always `default`.
    """

    parameter: Parameter
    rest: RestField
    required: bool = False
    default_note: str = ""

    @property
    def name(self) -> str:
        """The field's name."""
        return self.rest.name or self.parameter.python_name

    @property
    def bounds(self) -> Bounds | None:
        return self.rest.bounds or self.parameter.bounds

    @property
    def choices(self) -> tuple[str, ...]:
        return self.rest.choices or self.parameter.choices

    @property
    def default(self) -> Value | None:
        """Value of a request without the field; None for the server's default."""
        return self.parameter.default if self.rest.default is None else self.rest.default

    @property
    def value_type(self) -> type[Value]:
        return _TYPES[self.parameter.dtype]

    def description(self, names: Mapping[str, str]) -> str:
        """Return the description with this API's field names. names: fields by tensor name."""
        meaning = self.rest.meaning or self.parameter.meaning
        meaning = _TENSOR_NAME.sub(lambda found: names.get(found[0], found[0]), meaning)
        return f"{meaning}. {self.default_note}" if self.default_note else meaning

    def definition(self, names: Mapping[str, str]) -> tuple[Any, FieldInfo]:
        """Return type and field for `pydantic.create_model`. names: fields by tensor name."""
        constraints: dict[str, Any] = {}
        if self.bounds is not None:
            # Convert bounds to the field's type, because a float cannot represent 2^63-1.
            constraints |= {"ge": self.value_type(self.bounds.low), "le": self.value_type(self.bounds.high)}
        elif self.value_type is float:
            constraints["allow_inf_nan"] = False
        if self.parameter.max_characters is not None:
            constraints["max_length"] = self.parameter.max_characters
        if self.required and self.value_type is str:
            constraints["min_length"] = 1
        if self.parameter.multiple_of > 1:
            # For the description only. A checkpoint may require another multiple, which the model checks.
            constraints["json_schema_extra"] = {"multipleOf": self.parameter.multiple_of}
        if self.rest.aliases:
            constraints["validation_alias"] = AliasChoices(self.name, *self.rest.aliases)
        default = ... if self.required else None if self.default_note else self.default
        kind: Any = Literal[self.choices] if self.choices else self.value_type
        if self.parameter.per_image:
            kind, constraints = _one_or_each(kind, constraints), {}
        return kind, Field(default, description=self.description(names), **constraints)


def _one_or_each(kind: Any, constraints: Mapping[str, Any]) -> Any:
    """Type of a field that accepts one value for all images, or a list with one for each."""
    one: Any = Annotated[kind, Field(**constraints)]
    schema = TypeAdapter(one).json_schema()
    several = {"type": "array", "items": schema, "minItems": 1, "maxItems": limits.MAX_INPUT_IMAGES}

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        if isinstance(value, list):
            return handler(value)
        try:
            (only,) = handler([value])
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from None
        return only

    items = Annotated[list[one], Field(min_length=1, max_length=limits.MAX_INPUT_IMAGES)]
    return Annotated[items, WrapValidator(validate), WithJsonSchema({"anyOf": [schema, several]})]


def parameters_of(mode: Mode) -> tuple[Parameter, ...]:
    """Return the parameters that a REST request of this mode may set.

    The REST APIs send Redux images only in the modes that require them, so other modes have no parameters per image.
    """
    has_images = requires(mode, IMAGE)
    return tuple(parameter for parameter in mode.parameters if has_images or not parameter.per_image)


def requires(mode: Mode, parameter: Parameter) -> bool:
    """Whether the mode rejects requests without this parameter."""
    return any(each.name == parameter.name and not each.optional for each in mode.parameters)


def takes(mode: Mode, parameter: Parameter) -> bool:
    """Whether a REST request of the mode may set this parameter."""
    return any(each.name == parameter.name for each in parameters_of(mode))


def parameters_of_any(modes: Iterable[Mode]) -> tuple[Parameter, ...]:
    """Return each parameter that a REST request of any of these modes may set, once."""
    found: dict[str, Parameter] = {}
    for mode in modes:
        for parameter in parameters_of(mode):
            found.setdefault(parameter.name, parameter)
    return tuple(found.values())


class ParameterBody(RequestBody):
    """A request with fields that are derived from the contract.

    parameter_fields: the derived fields; `with_fields` sets them.
    """

    parameter_fields: ClassVar[tuple[ParameterField, ...]] = ()

    def keywords(self, mode: Mode, api_defaults: Mapping[str, Value] | None = None) -> dict[str, Any]:
        """Return the values of the mode's parameters, by client keyword.

        A parameter without a value gets the API's default; if the API has none, the server's default applies.
        api_defaults: defaults of the API in this mode, by tensor name.
        Raises Refusal: 422, a true CFG scale without a negative prompt.
        """
        defaults = api_defaults or {}
        settable = {parameter.name for parameter in parameters_of(mode)}
        values: dict[str, Any] = {}
        for field in self.parameter_fields:
            name = field.parameter.name
            if name in settable:
                is_given = field.name in self.model_fields_set
                value = getattr(self, field.name) if is_given else defaults.get(name, field.rest.default)
                if value is not None:
                    values[field.parameter.python_name] = value
        self._check_negative_prompt(values)
        if not values.get(PROMPT.python_name):
            values.pop(PROMPT.python_name, None)
        return values

    def field_of(self, parameter: Parameter) -> str:
        """Return the name of the parameter's field."""
        return next(field.name for field in self.parameter_fields if field.parameter.name == parameter.name)

    def _check_negative_prompt(self, values: dict[str, Any]) -> None:
        """Remove values without effect: a scale of 1 without a prompt, and an empty prompt without a scale.

        Raises Refusal: 422, another scale without a prompt. Triton rejects a prompt without a scale.
        """
        prompt = values.get(NEGATIVE_PROMPT.python_name)
        has_scale = values.get(TRUE_CFG_SCALE.python_name, 1) != 1
        if has_scale and prompt is None:
            scale_field, prompt_field = self.field_of(TRUE_CFG_SCALE), self.field_of(NEGATIVE_PROMPT)
            raise Refusal(422, f"{scale_field}: requires {prompt_field}, which may be empty in JSON", scale_field)
        if not (prompt or has_scale):
            for parameter in (NEGATIVE_PROMPT, TRUE_CFG_SCALE):
                values.pop(parameter.python_name, None)


_Body = TypeVar("_Body", bound=ParameterBody)


def with_fields(
    body: type[_Body], fields: Sequence[ParameterField], more: Mapping[str, tuple[Any, Any]] | None = None
) -> type[_Body]:
    """Return a subclass of the body with a pydantic field for each parameter. more: additional fields."""
    all_fields = tuple({field.name: field for field in (*body.parameter_fields, *fields)}.values())
    names = {field.parameter.name: field.name for field in all_fields}
    definitions: dict[str, Any] = {field.name: field.definition(names) for field in fields}
    derived = create_model(
        body.__name__,
        __base__=body,
        __doc__=body.__doc__,
        __module__=body.__module__,
        **{**(more or {}), **definitions},
    )
    derived.parameter_fields = all_fields
    return derived
