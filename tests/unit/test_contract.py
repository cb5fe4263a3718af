"""The contract: Triton can parse the rendered configs, and error messages name model, tensor, value and range."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.models import ENSEMBLES, FLUX_BASE, FLUX_PRIOR_REDUX, FLUX_REDUX, FLUX_STREAM, MODELS
from flux_contract.parameters import GUIDANCE_SCALE, IMAGE, NUM_INFERENCE_STEPS, SEED
from flux_rendering.pbtxt import DEFAULT_GPUS, render_all, render_ensemble, render_model


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_every_rendered_file_is_a_valid_model_config() -> None:
    for path, text in render_all().items():
        assert parsed(text).name == path.parts[0]


def test_gpu_models_have_one_instance_each_on_gpus_7_and_8_by_default() -> None:
    assert DEFAULT_GPUS == (7, 8)
    for model in (FLUX_PRIOR_REDUX, FLUX_BASE):
        (group,) = parsed(render_model(model, DEFAULT_GPUS)).instance_group
        assert (group.kind, list(group.gpus), group.count) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, [7, 8], 1)


def test_gpu_models_have_one_instance_per_gpu_and_other_models_run_on_the_cpu() -> None:
    configs = {path.parts[0]: parsed(text) for path, text in render_all((0, 1, 2, 3)).items() if len(path.parts) == 2}
    for model in MODELS:
        (group,) = configs[model.name].instance_group
        kind = "KIND_GPU" if model.needs_gpu else "KIND_CPU"
        assert group.kind == model_config_pb2.ModelInstanceGroup.Kind.Value(kind)
        assert list(group.gpus) == ([0, 1, 2, 3] if model.needs_gpu else [])
        assert group.count == (1 if model.needs_gpu else model.cpu_instances)


def test_every_model_runs_on_the_cpu_without_gpus() -> None:
    for model in MODELS:
        (group,) = parsed(render_model(model, ())).instance_group
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


def test_rendered_config_has_every_tensor_of_the_model() -> None:
    for model in MODELS:
        config = parsed(render_model(model, ()))
        assert [(t.name, list(t.dims), t.optional) for t in config.input] == [
            (t.name, list(t.shape), t.optional) for t in model.inputs
        ]
        assert [t.name for t in config.output] == [t.name for t in model.outputs]


def test_no_output_of_an_ensemble_has_the_name_of_an_input() -> None:
    """Otherwise Triton would return the input."""
    for ensemble in ENSEMBLES:
        assert not {t.name for t in ensemble.inputs} & {t.name for t in ensemble.outputs}


def test_step_inputs_come_from_the_ensemble_or_an_earlier_step() -> None:
    for ensemble in ENSEMBLES:
        known = {t.name for t in ensemble.inputs}
        for step in ensemble.steps:
            assert {step.name_of(t) for t in ensemble.inputs_of(step)} <= known
            assert {step.name_of(t) for t in step.model.inputs if not t.optional} <= known
            known |= {step.name_of(t) for t in ensemble.outputs_of(step)}
        assert {t.name for t in ensemble.outputs} <= known


def test_every_step_of_an_ensemble_has_a_required_input() -> None:
    """Triton rejects a request without inputs, so the ensemble requires an input for each step."""
    for ensemble in ENSEMBLES:
        required = {t.name for t in ensemble.inputs if not t.optional}
        for step in ensemble.steps:
            required |= {step.name_of(t) for t in ensemble.outputs_of(step)}
            assert {step.name_of(t) for t in ensemble.inputs_of(step)} & required


def test_every_step_except_the_last_has_an_output_that_clients_cannot_omit() -> None:
    """Triton skips a step if all of its outputs are ensemble outputs that the client did not request."""
    for ensemble in ENSEMBLES:
        given = {t.name for t in ensemble.outputs}
        *steps, _ = ensemble.steps
        for step in steps:
            assert {step.name_of(t) for t in ensemble.outputs_of(step)} - given


def test_no_output_is_optional() -> None:
    assert not [t.name for model in MODELS for t in model.outputs if t.optional]


def test_stream_has_the_inputs_of_every_mode() -> None:
    names = {t.name for ensemble in ENSEMBLES for t in ensemble.inputs} - {"PROGRESS_ADDRESS"}
    assert {t.name for t in FLUX_STREAM.inputs} == names | {"MODE", "STREAM_TOKEN", "CANCEL"}


def test_ensemble_requests_all_outputs_of_a_cached_model() -> None:
    """Triton's response cache only stores a response if all outputs were requested."""
    config = parsed(render_ensemble(FLUX_REDUX))
    step = next(s for s in config.ensemble_scheduling.step if s.model_name == FLUX_PRIOR_REDUX.name)
    assert FLUX_PRIOR_REDUX.response_cache
    assert set(step.output_map) == {t.name for t in FLUX_PRIOR_REDUX.outputs}


@pytest.mark.parametrize(
    ("tensor", "values", "message"),
    [
        (NUM_INFERENCE_STEPS, np.array([0], np.int32), "flux_base: NUM_INFERENCE_STEPS=0, expected 1..100"),
        (GUIDANCE_SCALE, np.array([np.nan], np.float32), "flux_base: GUIDANCE_SCALE=nan, expected 0..30"),
        (GUIDANCE_SCALE, np.array([np.inf], np.float32), "flux_base: GUIDANCE_SCALE=inf, expected 0..30"),
        (SEED, np.array([-2], np.int64), "flux_base: SEED=-2, expected -1..2^63-1"),
        (SEED, np.arange(9), "flux_base: SEED has 9 values, expected 1..8"),
        (IMAGE, np.array([b"x"] * 9, object), "flux_base: IMAGE has 9 values, expected 1..8"),
        (IMAGE, np.array([], object), "flux_base: IMAGE has 0 values, expected 1..8"),
    ],
)
def test_rejects_invalid_value_with_the_name_of_the_tensor(tensor: object, values: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tensor.check("flux_base", values)  # type: ignore[attr-defined]
    assert str(caught.value) == message


def test_accepts_both_ends_of_a_range() -> None:
    SEED.check("flux_base", np.array([limits.MAX_SEED], np.int64))
    SEED.check("flux_base", np.array([limits.RANDOM_SEED], np.int64))
    NUM_INFERENCE_STEPS.check("flux_base", np.array([limits.MAX_STEPS], np.int32))


def test_bytes_arrays_keep_trailing_zeros() -> None:
    assert IMAGE.array([b"\x89PNG\0\0"])[0] == b"\x89PNG\0\0"
