"""Checkpoints with all required files but without real weights, for tests that do not load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flux_serving.checkpoint_files import Component
from flux_serving.settings import Checkpoints


def stub_checkpoints(folder: Path, *, text: bool = False) -> Checkpoints:
    """Create the files of a checkpoint. text: whether it has text encoders."""
    checkpoints = Checkpoints(folder / "base", folder / "redux")
    stub_pipeline(checkpoints.base, {**Checkpoints.BASE_PARTS, **(Checkpoints.TEXT_PARTS if text else {})})
    stub_pipeline(checkpoints.redux, Checkpoints.REDUX_PARTS)
    return checkpoints


def stub_pipeline(folder: Path, parts: Mapping[str, Component]) -> None:
    for name, component in parts.items():
        stub_component(folder / name, component)
    (folder / "model_index.json").write_text("{}")


def stub_component(folder: Path, component: Component) -> None:
    folder.mkdir(parents=True)
    (folder / component.config).write_text("{}")
    if component.weights:
        (folder / component.weights[0]).write_bytes(stub_weights())
    for name in component.alternatives[0] if component.alternatives else ():
        (folder / name).write_text("{}")


def stub_weights() -> bytes:
    """Returns a safetensors file with one tensor of 16 zeros."""
    header = json.dumps({"zeros": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(16)
