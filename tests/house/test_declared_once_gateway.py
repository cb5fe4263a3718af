"""A parameter or mode that is added to the contract appears in both REST APIs and on the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from flux_contract.modes import IMG2IMG, MODES, REDUX, TEXT2IMG, Mode
from flux_contract.parameter import Parameter, RestField
from flux_contract.tensors import Bounds, DType
from flux_gateway.genserve.schema import GenerateRequest, for_modes
from flux_gateway.jobs.schema import JobRequest
from flux_gateway.openai_images.schema import ImagesOfImagesRequest, ImagesRequest, VariationsRequest, for_mode
from flux_gateway.page.contract import page_contract
from flux_gateway.parameter_fields import ParameterBody
from flux_gateway.reading import checked, schema_of
from flux_gateway.refusals import Refusal

IMAGE = base64.b64encode(b"an image of no format").decode()


def parameter(name: str, dtype: DType = DType.FP32, **rest: Any) -> Parameter:
    values: dict[str, Any] = {"bounds": Bounds(0, 2), "default": 0.5, "genserve": RestField(), "openai": RestField()}
    return Parameter(name, dtype, (1,), "Throw-away. See GUIDANCE_SCALE", optional=True, **{**values, **rest})


GLOSS = parameter("GLOSS", genserve=RestField("gloss_level", aliases=("shine",), default=0.25), on_page=True)
LENS = parameter("LENS", DType.BYTES, bounds=None, default="wide", choices=("wide", "long"), keyword="optics")
HIDDEN = parameter("HIDDEN", genserve=None, openai=None)


def with_inputs(mode: Mode, *parameters: Parameter) -> Mode:
    return replace(mode, ensemble=replace(mode.ensemble, inputs=(*mode.ensemble.inputs, *parameters)))


CHANGED = with_inputs(REDUX, GLOSS, LENS, HIDDEN)
#: An added mode without an image input.
POSTER = Mode(
    replace(TEXT2IMG.ensemble, name="flux_poster", inputs=(*TEXT2IMG.ensemble.inputs, GLOSS)),
    "make posters",
    "poster",
    "flux1-poster",
    genserve_defaults={GLOSS.name: 0.75},
)
COPY: Sequence[Mode] = (CHANGED, *(mode for mode in MODES if mode.name != REDUX.name), POSTER)

Generate = for_modes(COPY)(GenerateRequest)
Job = for_modes(COPY)(JobRequest)
Variations = for_mode(CHANGED)(VariationsRequest)
Posters = for_mode(POSTER)(ImagesRequest)


def properties(request: type[ParameterBody]) -> dict[str, Any]:
    found: dict[str, Any] = schema_of(request)["properties"]
    return found


@pytest.mark.parametrize(
    ("request_type", "name", "default"),
    [(Generate, "gloss_level", None), (Job, "gloss_level", None), (Variations, "gloss", 0.5), (Posters, "gloss", 0.5)],
)
def test_parameter_is_in_both_schemas(request_type: type[ParameterBody], name: str, default: float | None) -> None:
    found = properties(request_type)
    number, null = found[name]["anyOf"]
    assert (number["type"], number["minimum"], number["maximum"], null) == ("number", 0, 2, {"type": "null"})
    assert found[name]["default"] == default
    guidance = "cfg" if name == "gloss_level" else "guidance_scale"
    note = ". Default: 0.25 for `redux`; 0.75 for `poster`" if name == "gloss_level" else ""
    assert found[name]["description"] == f"Throw-away. See {guidance}{note}"
    assert "hidden" not in found
    assert "gloss" not in properties(GenerateRequest), "the real contract is unchanged"


def test_choice_is_an_enumeration_in_the_schema() -> None:
    for request in (Generate, Variations):
        choice, _ = properties(request)["optics"]["anyOf"]
        assert choice["enum"] == ["wide", "long"]


def test_parameter_of_one_mode_is_only_in_its_openai_endpoint() -> None:
    assert "gloss" not in properties(for_mode(IMG2IMG)(ImagesOfImagesRequest))


def test_genserve_schema_lists_the_mode() -> None:
    for request in (Generate, Job):
        names, _ = properties(request)["mode"]["anyOf"]
        assert names["enum"] == [*(mode.genserve for mode in MODES), "poster"]


def test_gateway_passes_values_to_the_client_as_keywords() -> None:
    for name in ("gloss_level", "shine"):
        wanted = checked(Generate, {"mode": "redux", "input_image": IMAGE, name: 1.5, "optics": "long"}).wanted()
        assert (wanted.mode, wanted.keywords["gloss"], wanted.keywords["optics"]) == (CHANGED, 1.5, "long")
    wanted = checked(Variations, {"image": IMAGE, "gloss": 1.5, "optics": "long"}).wanted()
    assert (wanted.mode, wanted.keywords["gloss"], wanted.keywords["optics"]) == (CHANGED, 1.5, "long")
    wanted = checked(Job, {"model_id": "flux1-poster", "prompt": "a", "gloss_level": 1, "n": 2}).wanted()
    assert (wanted.mode, wanted.keywords["gloss"], wanted.count) == (POSTER, 1.0, 2)


def test_missing_value_uses_the_default_of_the_api_or_the_server() -> None:
    redux = checked(Generate, {"mode": "redux", "input_image": IMAGE}).wanted().keywords
    poster = checked(Generate, {"mode": "poster", "prompt": "a"}).wanted().keywords
    text2img = checked(Generate, {"mode": "text2img", "prompt": "a", "gloss_level": 1}).wanted().keywords
    assert (redux["gloss"], poster["gloss"]) == (0.25, 0.75)
    assert not {"gloss", "optics"} & text2img.keys(), "the mode does not accept them"
    assert not {"gloss", "optics"} & checked(Variations, {"image": IMAGE}).wanted().keywords.keys()


@pytest.mark.parametrize(
    ("request_type", "fields", "named"),
    [
        (Generate, {"mode": "redux", "input_image": IMAGE, "gloss_level": 3}, "gloss_level"),
        (Generate, {"mode": "redux", "input_image": IMAGE, "optics": "macro"}, "optics"),
        (Generate, {"mode": "poster"}, "prompt"),
        (Variations, {"image": IMAGE, "gloss": -1}, "gloss"),
        (Posters, {"gloss": 1}, "prompt"),
    ],
)
def test_error_names_the_field(request_type: type[Any], fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Refusal) as caught:
        checked(request_type, fields).wanted()
    assert (caught.value.status, caught.value.field) == (422, named)
    assert caught.value.words.startswith(f"{named}: ")


def test_page_contract_includes_parameter_and_mode() -> None:
    contract = page_contract(COPY, Job)
    parameters = {each["name"]: each for each in contract["parameters"]}
    assert parameters["gloss_level"]["default"] == {"redux": 0.25, "poster": 0.75}
    assert [parameters["gloss_level"][key] for key in ("type", "min", "max")] == ["number", 0, 2]
    assert not {"optics", "hidden"} & parameters.keys(), "they have no control on the page"
    modes = {each["genserve"]: each for each in contract["modes"]}
    assert "gloss_level" in modes["redux"]["parameters"]
    assert "gloss_level" not in modes["text2img"]["parameters"]
    assert "gloss_level" in modes["poster"]["parameters"]
    assert (modes["poster"]["name"], modes["poster"]["image"]) == ("poster", None)
    assert modes["poster"]["required"] == ["prompt"]


def test_page_contract_has_exactly_the_parameters_with_a_control() -> None:
    declared = {each.name for mode in MODES for each in mode.parameters if each.on_page}
    found = {field.parameter.name for field in JobRequest.parameter_fields if field.parameter.on_page}
    assert found == declared
    assert len(page_contract()["parameters"]) == len(declared)
