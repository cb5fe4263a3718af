"""Checks that checkpoints in diffusers layout have the files that each component needs.

Reads configurations and the headers of weight files, never the weights: 10 ms for FLUX.1-dev.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Suffixes of single-file checkpoints, which other programs use.
_SINGLE_FILES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Component:
    """A sub-folder of a checkpoint.

    config: its configuration. weights: names of weight files, one of which is required, as one file or as the shards
    that `NAME.index.json` lists; empty: none. alternatives: sets of further files, one of which must be complete.
    """

    config: str
    weights: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()


DIFFUSERS_MODEL = Component("config.json", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"))
TRANSFORMERS_MODEL = Component("config.json", ("model.safetensors", "pytorch_model.bin"))
TOKENIZER = Component(
    "tokenizer_config.json", alternatives=(("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
)
SCHEDULER = Component("scheduler_config.json")
IMAGE_PROCESSOR = Component("preprocessor_config.json")


def missing_files(folder: Path, component: Component) -> list[str]:
    """Returns a line with the path for each missing file of a component; empty if it is complete."""
    if not folder.is_dir():
        return [f"{folder.parent} has no {folder.name}"]
    if not any(folder.iterdir()):
        return [f"{folder} is empty"]
    lines = _json_problems(folder / component.config)
    if component.weights:
        lines += _weight_problems(folder, component.weights)
    if component.alternatives and not any(
        all((folder / name).is_file() for name in names) for names in component.alternatives
    ):
        choices = " or ".join(" with ".join(names) for names in component.alternatives)
        lines.append(f"{folder} has no vocabulary, expected {choices}")
    return lines


def missing_index(folder: Path) -> list[str]:
    """Returns the problems of `model_index.json`, which every pipeline folder has."""
    lines = _json_problems(folder / "model_index.json")
    single = sorted(file.name for file in folder.iterdir() if file.suffix in _SINGLE_FILES)
    if lines and single:
        lines[0] += f"; {single[0]} is a single-file checkpoint: {_LAYOUT}"
    return lines


_LAYOUT = (
    "expected a folder in diffusers layout (model_index.json and a sub-folder for each component); see docs/weights.md"
)


def single_file_problem(path: Path) -> str:
    """Returns why a path to a file cannot be served."""
    kind = " with quantized weights, which are not supported" if path.suffix == ".gguf" else ""
    return f"{path} is a single file{kind}; {_LAYOUT}"


def _weight_problems(folder: Path, names: tuple[str, ...]) -> list[str]:
    for name in names:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(_read_json(index)["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError):
                return [f"{index} is not a valid index of shards"]
            return [line for shard in shards for line in _file_problems(folder / str(shard))]
        if (folder / name).exists():
            return _file_problems(folder / name)
    return [f"{folder} has no weights, expected {names[0]} or {names[0]}.index.json with its shards"]


def _file_problems(file: Path) -> list[str]:
    """Returns the problems of a weight file, detected from its size and header."""
    if not file.is_file():
        return [f"{file.parent} has no {file.name}"]
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(len(_LFS_POINTER))
        if head == _LFS_POINTER:
            return [f"{file} is a Git LFS pointer instead of the weights; run git lfs pull"]
        if file.suffix != ".safetensors":
            return [] if size else [f"{file} is empty"]
        opened.seek(8)
        length = int.from_bytes(head[:8], "little")
        try:
            header: Any = json.loads(opened.read(length)) if 8 + length <= size else None
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            return [f"{file} is incomplete or not a safetensors file: its header cannot be read, it has {size} bytes"]
    expected = 8 + length + end
    return [] if size == expected else [f"{file} is incomplete: {size} bytes, expected {expected}"]


def _json_problems(file: Path) -> list[str]:
    if not file.is_file():
        return [f"{file.parent} has no {file.name}"]
    try:
        found = _read_json(file)
    except ValueError:
        found = None
    return [] if isinstance(found, dict) else [f"{file} is not a JSON object"]


def _read_json(file: Path) -> Any:
    """Parse a JSON file. Raises ValueError: it is not JSON or not UTF-8."""
    return json.loads(file.read_text("utf-8"))
