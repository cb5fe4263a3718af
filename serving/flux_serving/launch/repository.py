"""Assembles the model repository that Triton loads: links to the committed models, without the unserved ensembles."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from flux_contract.models import FLUX_BASE
from flux_contract.modes import BY_NAME
from flux_rendering.pbtxt import DEFAULT_GPUS, render_all


def assemble_repository(
    target: Path,
    source: Path,
    profile: str,
    gpus: tuple[int, ...],
    unserved_modes: Collection[str],
    cpu_instances: int = FLUX_BASE.cpu_instances,
) -> list[str]:
    """Make the folder `target`. Returns the arguments of tritonserver that select the profile.

    The folder is the launcher's own, because Triton's stub does not support spaces in its path (2.51). The ensembles
    of unserved modes are left out, so that Triton reports them as not ready. For GPUs other than the committed ones or
    a different number of CPU instances, the folder is a copy with rendered configurations; the committed files stay as
    they are.
    """
    left_out = {BY_NAME[mode].ensemble.name for mode in unserved_modes}
    is_committed = {"gpu": gpus == DEFAULT_GPUS, "cpu": cpu_instances == FLUX_BASE.cpu_instances}.get(profile, True)
    if is_committed:
        target.mkdir()
        for model in source.resolve().iterdir():
            if model.name not in left_out:
                (target / model.name).symlink_to(model)
        return [] if profile == "gpu" else [f"--model-config-name={profile}"]
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "configs", *left_out))
    for path, text in render_all(gpus if profile == "gpu" else (), cpu_instances).items():
        if path.name == "config.pbtxt" and path.parts[0] not in left_out:
            (target / path).write_text(text)
    return []
