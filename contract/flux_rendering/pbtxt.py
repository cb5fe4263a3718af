"""Renders Triton's `config.pbtxt` of every model and ensemble.

The configs are complete, so that the server can run with `--disable-auto-complete-config`. Otherwise Triton would start
an extra process of every model to complete them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flux_contract.models import ENSEMBLES, FLUX_BASE, MODELS, Ensemble, Model
from flux_contract.tensors import Tensor

#: Each GPU has one instance of every model that needs a GPU.
DEFAULT_GPUS = (7, 8)
#: Additional configs, which `--model-config-name` selects, and the GPUs of each; empty means the CPU.
PROFILES: dict[str, tuple[int, ...]] = {"cpu": (), "k8s": (0,)}

_HEADER = "# Rendered from contract/flux_contract by scripts/render; edit there.\n"


def gpu_list(text: str) -> tuple[int, ...]:
    """Parse GPU numbers such as `7,8`, for argparse.

    Raises argparse.ArgumentTypeError: a part is not a number, or a number is repeated.
    """
    gpus = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if len(gpus) != len(text.split(",")) or len(set(gpus)) != len(gpus):
        raise argparse.ArgumentTypeError(f"{text!r}, expected different GPU numbers such as 7,8")
    return gpus


def render_model(model: Model, gpus: tuple[int, ...]) -> str:
    """Return `config.pbtxt` of one model. gpus: one instance on each of these devices; if empty, the CPU."""
    lines = [
        _HEADER + f"# {model.purpose}.",
        f'name: "{model.name}"',
        'backend: "python"',
        f"max_batch_size: {model.max_batch_size}",
        *_tensors("input", model.inputs, ragged=model.dynamic_batching),
        *_tensors("output", model.outputs),
    ]
    if model.needs_gpu and gpus:
        lines.append(f"instance_group [ {{ kind: KIND_GPU, gpus: {list(gpus)}, count: 1 }} ]")
    else:
        lines.append(f"instance_group [ {{ kind: KIND_CPU, count: {model.cpu_instances} }} ]")
    if model.dynamic_batching:
        lines.append("dynamic_batching { }")
    if model.decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    if model.response_cache:
        lines.append("response_cache { enable: true }")
    for parameter in model.parameters:
        lines.append(f"# {parameter.meaning}.")
        lines.append(f'parameters {{ key: "{parameter.name}" value: {{ string_value: "{parameter.default}" }} }}')
    return "\n".join(lines) + "\n"


def render_ensemble(ensemble: Ensemble) -> str:
    """Return `config.pbtxt` of an ensemble, which is the same on every machine."""
    lines = [
        _HEADER + f"# {ensemble.purpose}.",
        f'name: "{ensemble.name}"',
        'platform: "ensemble"',
        f"max_batch_size: {ensemble.max_batch_size}",
        *_tensors("input", ensemble.inputs),
        *_tensors("output", ensemble.outputs),
        "ensemble_scheduling {",
    ]
    for step in ensemble.steps:
        lines += ["  step {", f'    model_name: "{step.model.name}"', "    model_version: -1"]
        lines += [f'    input_map {{ key: "{t.name}" value: "{step.name_of(t)}" }}' for t in ensemble.inputs_of(step)]
        lines += [f'    output_map {{ key: "{t.name}" value: "{step.name_of(t)}" }}' for t in ensemble.outputs_of(step)]
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def render_all(
    gpus: tuple[int, ...] = DEFAULT_GPUS,
    cpu_instances: int = FLUX_BASE.cpu_instances,
    models: Sequence[Model] = MODELS,
    ensembles: Sequence[Ensemble] = ENSEMBLES,
) -> dict[Path, str]:
    """Return every config file, by its path in the model repository. cpu_instances: of flux_base without GPUs."""
    files: dict[Path, str] = {}
    for declared in models:
        model = replace(declared, cpu_instances=cpu_instances) if declared.name == FLUX_BASE.name else declared
        files[Path(model.name, "config.pbtxt")] = render_model(model, gpus)
        if model.needs_gpu:
            for profile, pinned in PROFILES.items():
                files[Path(model.name, "configs", f"{profile}.pbtxt")] = render_model(model, pinned)
    for ensemble in ensembles:
        files[Path(ensemble.name, "config.pbtxt")] = render_ensemble(ensemble)
    return files


def _tensors(kind: str, tensors: tuple[Tensor, ...], ragged: bool = False) -> Iterator[str]:
    yield f"{kind} ["
    for index, tensor in enumerate(tensors):
        fields = [f'name: "{tensor.name}"', f"data_type: {tensor.dtype.config_name}", f"dims: {list(tensor.shape)}"]
        if tensor.optional:
            fields.append("optional: true")
        if ragged and -1 in tensor.shape:
            fields.append("allow_ragged_batch: true")
        yield "  { " + ", ".join(fields) + " }" + ("," if index + 1 < len(tensors) else "")
    yield "]"
