"""The model repository that Triton loads: links to the committed models, without those that cannot serve here."""

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
    """Make `target`. Returns the arguments that pick a profile of it.

    It lies in a folder of the launcher's own: the stub cannot bear a space in its path (2.51). The ensembles of
    unserved modes are left out, so that Triton says that they are not ready. GPUs other than the committed ones, and
    another number of CPU instances, get a copy with configurations for them; the committed files stay.
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
