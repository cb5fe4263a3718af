"""Renders docs/tensors.md, docs/parameters.md and docs/metrics.md, and tables inside other pages.

A page has a rendered table between two markers:

    <!-- rendered: parameters images -->
    <!-- rendered end -->
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from flux_contract.groups import GROUPS, ParameterGroup
from flux_contract.metrics import HEARTBEAT, METRICS, PRIVATE_MEMORY, SHARED_MEMORY
from flux_contract.models import ENSEMBLES, FLUX_BASE, MODELS, Ensemble, Model
from flux_contract.modes import MODES, Mode
from flux_contract.parameter import Parameter
from flux_contract.parameters import LORA, LORA_SCALE
from flux_contract.tensors import Tensor

_SECTION = re.compile(r"<!-- rendered: (.+?) -->\n.*?<!-- rendered end -->", re.DOTALL)
_ORIGIN = "Rendered from `contract/flux_contract` by `scripts/render`."


def render_tensors(models: Sequence[Model] = MODELS, ensembles: Sequence[Ensemble] = ENSEMBLES) -> str:
    """Return docs/tensors.md: the tensors of every model, and the meaning of every tensor once."""
    everything: list[Ensemble | Model] = [*ensembles, *models]
    parts = [
        "# Tensors\n",
        f"{_ORIGIN} Shapes are without the batch dimension. A request has batch size 1, so `IMAGE` with two images has "
        "shape `[1, 2]`. [All tensors](#all-tensors) has their types, defaults and meanings.\n",
    ]
    for model in everything:
        kind = "ensemble" if isinstance(model, Ensemble) else "model"
        parts.append(f"## {model.name} ({kind})\n\n{model.purpose}.\n")
        parts.append("| | tensors |\n|---|---|")
        required = [tensor for tensor in model.inputs if _is_required(tensor)]
        optional = [tensor for tensor in model.inputs if not _is_required(tensor)]
        lists = {"required inputs": required, "optional inputs": optional, "outputs": model.outputs}
        parts += [f"| {title} | {_names(tensors)} |" for title, tensors in lists.items() if tensors]
        if isinstance(model, Model) and model.parameters:
            parts.append("\n| parameter | default | meaning |\n|---|---|---|")
            parts += [f"| `{p.name}` | `{p.default}` | {p.meaning} |" for p in model.parameters]
        parts.append("")
    parts.append("## All tensors\n\n| tensor | type | shape | default | range | meaning |\n|---|---|---|---|---|---|")
    parts += _tensor_rows(everything)
    return "\n".join(parts) + "\n"


def render_parameters(modes: Sequence[Mode] = MODES, groups: Sequence[ParameterGroup] = GROUPS) -> str:
    """Return docs/parameters.md: the parameters of a request, by group."""
    parts = [
        "# Parameters",
        f"{_ORIGIN} A parameter is a [tensor](tensors.md), a keyword of the client and an option of `flux-client`. A "
        "parameter without a default is disabled unless its meaning says otherwise.",
    ]
    grouped = {parameter.name for group in groups for parameter in group.parameters}
    rest = {each.name: each for mode in modes for each in mode.options if each.name not in grouped}
    others = (ParameterGroup("others", "Others", tuple(rest.values())),) if rest else ()
    for group in (*groups, *others):
        parts.append(f"## {group.title}")
        parts.append(parameter_table(group.parameters, modes))
    return "\n\n".join(parts) + "\n"


def parameter_table(parameters: Iterable[Parameter], modes: Sequence[Mode] = MODES) -> str:
    """Return a table with a row for each parameter."""
    rows = ["| keyword | tensor | option | values | default | modes | meaning |", "|---|---|---|---|---|---|---|"]
    for parameter in parameters:
        having = [mode for mode in modes if parameter.name in {p.name for p in (*mode.subjects, *mode.options)}]
        is_tensor = any(parameter.name in {tensor.name for tensor in mode.ensemble.inputs} for mode in having)
        flag = LORA.all_flags if parameter.name == LORA_SCALE.name else parameter.all_flags
        cells = (
            f"`{parameter.python_name}`",
            f"`{parameter.name}`" if is_tensor else "",
            ", ".join(f"`{each}`" for each in flag),
            _values(parameter),
            _default(parameter),
            "all" if len(having) == len(modes) else ", ".join(mode.name for mode in having),
            parameter.meaning,
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def group_table(groups: Sequence[ParameterGroup] = GROUPS) -> str:
    """Return a row for each group, with its keywords and a link to its table, for pages in docs/."""
    rows = ["| | keywords of the client |", "|---|---|"]
    for group in groups:
        keywords = ", ".join(f"`{parameter.python_name}`" for parameter in group.parameters)
        anchor = re.sub(r"[^a-z0-9-]", "", group.title.lower().replace(" ", "-"))
        rows.append(f"| [{group.title}](parameters.md#{anchor}) | {keywords} |")
    return "\n".join(rows)


def replace_sections(page: str, groups: Sequence[ParameterGroup] = GROUPS) -> str:
    """Return the page with its sections rendered again.

    Sections are `groups`, and `parameters` with the names of groups.
    Raises KeyError: unknown section or group.
    """
    by_name = {group.name: group for group in groups}

    def rendered(section: re.Match[str]) -> str:
        kind, *names = section[1].split()
        if kind == "groups":
            table = group_table(groups)
        elif kind == "parameters":
            found = {each.name: each for name in names for each in by_name[name].parameters}
            table = parameter_table(found.values())
        else:
            raise KeyError(f"rendered section {section[1]!r}, expected groups or parameters")
        return f"<!-- rendered: {section[1]} -->\n\n{table}\n\n<!-- rendered end -->"

    return _SECTION.sub(rendered, page)


def render_metrics() -> str:
    """Return docs/metrics.md: the metrics of the models."""
    parts = [
        "# Metrics\n",
        f"{_ORIGIN} Triton publishes these metrics on the metrics port, in addition to its own. They have the labels "
        f"`model` and `instance`. Instances of `{FLUX_BASE.name}` publish all of them; the other Python models publish "
        f"`{HEARTBEAT.name}`, `{PRIVATE_MEMORY.name}` and `{SHARED_MEMORY.name}`. On a GPU, the name of an instance "
        "ends with the GPU's number, such as `flux_base_0_0_gpu7`, because Triton gives instances of one group on "
        "several GPUs the same name. Prometheus renames the label to `exported_instance`, because `instance` is its "
        f"name for the scraped target. Do not use Triton's compute and queue times of `{FLUX_BASE.name}`: its "
        "`execute` returns before the work starts.\n",
        "| metric | kind | meaning | question |\n|---|---|---|---|",
        *(f"| `{m.name}` | {m.kind.value} | {m.meaning} | {m.question} |" for m in METRICS),
        "",
        "Useful expressions:\n",
        "| expression | meaning |\n|---|---|",
        "| `rate(flux_forward_seconds_total[1m])` | share of time in which the transformer runs |",
        "| `rate(flux_rows_per_step_sum[1m]) / rate(flux_rows_per_step_count[1m])` | mean number of images per step |",
        "| `rate(flux_tokens_total[1m])` | tokens per second, for any mix of sizes |",
        "| `sum by (exported_instance) (rate(flux_tokens_total[5m]))` | work of each instance |",
        "| `time() - flux_heartbeat_seconds` | seconds since the last heartbeat of the process |",
        '| `rate(flux_jobs_total{outcome="done"}[1m])` | images per second |',
        "| `histogram_quantile(0.95, sum by (le) (rate(flux_queue_seconds_bucket[5m])))` | 95th percentile of waits |",
        "",
    ]
    return "\n".join(parts)


def _is_required(tensor: Tensor) -> bool:
    return not tensor.optional and not _default(tensor)


def _names(tensors: Iterable[Tensor]) -> str:
    return ", ".join(f"`{tensor.name}`" for tensor in tensors)


def _tensor_rows(models: Iterable[Ensemble | Model]) -> list[str]:
    """A row for each tensor. A name that means different things has a row for each meaning, with its models."""
    owners: dict[str, dict[str, list[str]]] = {}
    for model in models:
        for tensor in (*model.inputs, *model.outputs):
            having = owners.setdefault(tensor.name, {}).setdefault(_cells(tensor), [])
            if model.name not in having:
                having.append(model.name)
    rows = []
    for name, meanings in owners.items():
        for cells, names in meanings.items():
            of_models = f" ({', '.join(names)})" if len(meanings) > 1 else ""
            rows.append(f"| `{name}`{of_models} | {cells} |")
    return rows


def _cells(tensor: Tensor) -> str:
    unit = f" ({tensor.unit})" if tensor.unit else ""
    return " | ".join(
        (
            tensor.dtype.wire_name,
            f"[{', '.join(map(str, tensor.shape))}]",
            _default(tensor),
            str(tensor.bounds) if tensor.bounds else "",
            tensor.meaning + unit,
        )
    )


def _values(parameter: Parameter) -> str:
    """Return the bounds and the unit, or the choices."""
    if parameter.offered_choices:
        return ", ".join(f"`{choice}`" for choice in parameter.offered_choices)
    return " ".join(filter(None, (str(parameter.bounds or ""), parameter.unit)))


def _default(tensor: Tensor) -> str:
    if tensor.default in (None, ""):
        return ""
    return f"`{tensor.default:g}`" if isinstance(tensor.default, float) else f"`{tensor.default}`"
