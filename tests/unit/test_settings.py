"""Start-up settings: invalid values are named and prevent the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_contract.errors import CannotStart
from flux_contract.models import FLUX_BASE, IMAGE_ENCODE
from flux_serving.settings import Checkpoints, ModelSettings


def config(**parameters: str) -> dict[str, object]:
    """The configuration as Triton passes it to a model."""
    return {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


def test_parameters_are_read_from_the_model_s_config() -> None:
    settings = ModelSettings.from_config(
        FLUX_BASE, config(DTYPE="bfloat16", MAX_WAITING="8", MAX_ROWS="4", STEP_TOKENS="4096", ATTENTION="merge")
    )
    assert settings == ModelSettings("bfloat16", max_waiting=8, max_rows=4, step_tokens=4096, attention="merge")


def test_omitted_parameters_have_contract_defaults() -> None:
    assert ModelSettings.from_config(FLUX_BASE, {}) == ModelSettings()


@pytest.mark.parametrize("name", ["EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS"])
def test_ignores_parameters_of_triton(name: str) -> None:
    config = {"parameters": {name: {"string_value": "no"}}}
    assert ModelSettings.from_config(FLUX_BASE, config) == ModelSettings()


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        (FLUX_BASE, {"MAX_WATING": "8"}, "flux_base: unknown parameter MAX_WATING, expected DTYPE, MAX_WAITING, "),
        (IMAGE_ENCODE, {"DTYPE": "auto"}, "image_encode: unknown parameter DTYPE, expected MAX_PENDING, WORKERS"),
        (FLUX_BASE, {"DTYPE": "fp8"}, "flux_base: parameter DTYPE=fp8, expected one of auto, float32, bfloat16"),
        (FLUX_BASE, {"MAX_WAITING": "0"}, "flux_base: parameter MAX_WAITING=0, expected an integer above 0"),
        (FLUX_BASE, {"STEP_TOKENS": "all"}, "flux_base: parameter STEP_TOKENS=all, expected an integer above 0"),
        (FLUX_BASE, {"ATTENTION": "flash"}, "flux_base: parameter ATTENTION=flash, expected one of auto, mask, merge"),
        (FLUX_BASE, {"DEFAULT_STEPS": "101"}, "flux_base: parameter DEFAULT_STEPS=101, expected 1..100"),
        (FLUX_BASE, {"MAX_ADAPTERS": "0"}, "flux_base: parameter MAX_ADAPTERS=0, expected an integer above 0"),
        (FLUX_BASE, {"MAX_WAITING": "many"}, "flux_base: parameter MAX_WAITING=many, expected an integer above 0"),
    ],
)
def test_invalid_parameter_prevents_start(model: object, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(CannotStart) as caught:
        ModelSettings.from_config(model, config(**parameters))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_error_names_variables_that_are_not_set() -> None:
    with pytest.raises(CannotStart, match="not set: FLUX_REDUX_MODEL_PATH; each names a checkpoint folder"):
        Checkpoints.from_environment({"FLUX_MODEL_PATH": "/models/base"})


def test_optional_checkpoints_may_be_absent(tmp_path: Path) -> None:
    given = {"FLUX_MODEL_PATH": "/models/base", "FLUX_REDUX_MODEL_PATH": "/models/redux", "FLUX_LORA_PATH": ""}
    assert Checkpoints.from_environment(given) == Checkpoints(Path("/models/base"), Path("/models/redux"))
    given |= {"FLUX_VAE_MODEL_PATH": "/models/vae", "FLUX_CONTROLNET_MODEL_PATH": "/models/net"}
    checkpoints = Checkpoints.from_environment({**given, "FLUX_LORA_PATH": str(tmp_path)})
    assert Checkpoints.from_environment(checkpoints.as_environment()) == checkpoints
    missing = checkpoints.missing()
    assert "FLUX_VAE_MODEL_PATH: no folder /models/vae" in missing
    assert "FLUX_CONTROLNET_MODEL_PATH: no folder /models/net" in missing
    assert not [line for line in missing if line.startswith("FLUX_LORA_PATH")]


def test_text_encoders_count_only_when_all_four_parts_are_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, tmp_path)
    for part in Checkpoints.TEXT_PARTS:
        assert not checkpoints.has_text_encoders()
        (tmp_path / part).mkdir()
    assert checkpoints.has_text_encoders()
