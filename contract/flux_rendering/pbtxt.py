"""The contract as Triton's `config.pbtxt`, and as the tables in docs/tensors.md and docs/metrics.md.

Configs are full, so that the server runs with `--disable-auto-complete-config`: completing them would start a
throw-away process of every model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flux_contract.metrics import HEARTBEAT, METRICS, PRIVATE_MEMORY, SHARED_MEMORY
from flux_contract.models import ENSEMBLES, FLUX_BASE, MODELS, Ensemble, Model
from flux_contract.tensors import Tensor

#: GPUs of the seed's machine; one instance of every GPU model on each.
DEFAULT_GPUS = (7, 8)
#: Profiles beside `config.pbtxt`, chosen by `--model-config-name`: the GPUs that each pins to; none is the CPU.
PROFILES: dict[str, tuple[int, ...]] = {"cpu": (), "k8s": (0,)}

_HEADER = "# Rendered from contract/flux_contract by scripts/render_configs; edit there.\n"


def gpu_list(text: str) -> tuple[int, ...]:
    """Parse GPU numbers such as `7,8`, for argparse.

    Raises argparse.ArgumentTypeError: a part is not a number, or a number is repeated.
    """
    gpus = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if len(gpus) != len(text.split(",")) or len(set(gpus)) != len(gpus):
        raise argparse.ArgumentTypeError(f"{text!r}, expected different GPU numbers such as 7,8")
    return gpus


def render_model(model: Model, gpus: tuple[int, ...]) -> str:
    """`config.pbtxt` of one model. gpus: device ids to pin to, one instance on each; empty: the CPU."""
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
    """`config.pbtxt` of an ensemble; it is the same on every machine."""
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


def render_all(gpus: tuple[int, ...] = DEFAULT_GPUS, cpu_instances: int = FLUX_BASE.cpu_instances) -> dict[Path, str]:
    """Every config file, by its path inside the model repository. cpu_instances: of flux_base without GPUs."""
    files: dict[Path, str] = {}
    for declared in MODELS:
        model = replace(declared, cpu_instances=cpu_instances) if declared is FLUX_BASE else declared
        files[Path(model.name, "config.pbtxt")] = render_model(model, gpus)
        if model.needs_gpu:
            for profile, pinned in PROFILES.items():
                files[Path(model.name, "configs", f"{profile}.pbtxt")] = render_model(model, pinned)
    for ensemble in ENSEMBLES:
        files[Path(ensemble.name, "config.pbtxt")] = render_ensemble(ensemble)
    return files


def render_tables() -> str:
    """Every model's tensors as Markdown."""
    parts = [
        "# Tensors\n",
        "Rendered from `contract/flux_contract` by `scripts/render_configs`. Shapes are without the batch "
        "dimension; every model here takes requests of batch size 1, so `IMAGE` of two pictures has shape `[1, 2]`.\n",
    ]
    everything: list[Ensemble | Model] = [*ENSEMBLES, *MODELS]
    for model in everything:
        kind = "ensemble" if isinstance(model, Ensemble) else "model"
        parts.append(f"## {model.name} ({kind})\n\n{model.purpose}.\n")
        parts.append("| | tensor | type | shape | default | range | meaning |\n|---|---|---|---|---|---|---|")
        parts += [_row("in", tensor) for tensor in model.inputs] + [_row("out", tensor) for tensor in model.outputs]
        if isinstance(model, Model) and model.parameters:
            parts.append("\n| parameter | default | meaning |\n|---|---|---|")
            parts += [f"| `{p.name}` | `{p.default}` | {p.meaning} |" for p in model.parameters]
        parts.append("")
    return "\n".join(parts)


def render_metrics() -> str:
    """What the models publish, as Markdown."""
    parts = [
        "# Metrics\n",
        "Rendered from `contract/flux_contract` by `scripts/render_configs`. Beside Triton's own metrics, each "
        f"instance of `{FLUX_BASE.name}` publishes these on the metrics port, with the labels `model` and `instance`; "
        f"`{HEARTBEAT.name}`, `{PRIVATE_MEMORY.name}` and `{SHARED_MEMORY.name}` are of each instance of every Python "
        "model. On a GPU the instance's name ends with its number, such as `flux_base_0_0_gpu7`, because Triton gives "
        "the instances of one group on several GPUs the same name. "
        "Prometheus calls the label `exported_instance`, since `instance` is its own name for what it scrapes. "
        "Triton's own "
        f"compute and queue times of `{FLUX_BASE.name}` say nothing: its `execute` returns before the work begins.\n",
        "| metric | kind | what it counts | question that it answers |\n|---|---|---|---|",
        *(f"| `{m.name}` | {m.kind.value} | {m.meaning} | {m.question} |" for m in METRICS),
        "",
        "Worth a graph:\n",
        "| expression | meaning |\n|---|---|",
        "| `rate(flux_forward_seconds_total[1m])` | share of time in which the transformer runs |",
        "| `rate(flux_rows_per_step_sum[1m]) / rate(flux_rows_per_step_count[1m])` | images that share a step |",
        "| `rate(flux_tokens_total[1m])` | tokens per second, whatever the sizes |",
        "| `sum by (exported_instance) (rate(flux_tokens_total[5m]))` | the share of the work of each instance |",
        "| `time() - flux_heartbeat_seconds` | seconds since the process was last alive |",
        '| `rate(flux_jobs_total{outcome="done"}[1m])` | pictures per second |',
        "| `histogram_quantile(0.95, sum by (le) (rate(flux_queue_seconds_bucket[5m])))` | wait of the slowest 5 % |",
        "",
    ]
    return "\n".join(parts)


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


def _row(direction: str, tensor: Tensor) -> str:
    default = "required" if direction == "in" and not tensor.optional else ""
    if tensor.default not in (None, ""):
        default = f"`{tensor.default}`"
    bounds = str(tensor.bounds) if tensor.bounds else ""
    unit = f" ({tensor.unit})" if tensor.unit else ""
    shape = ", ".join(map(str, tensor.shape))
    cells = (
        direction,
        f"`{tensor.name}`",
        tensor.dtype.wire_name,
        f"[{shape}]",
        default,
        bounds,
        tensor.meaning + unit,
    )
    return "| " + " | ".join(cells) + " |"
