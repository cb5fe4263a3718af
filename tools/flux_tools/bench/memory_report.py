"""Renders sizes as the tables of docs/memory.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_contract.models import FLUX_VAE_ENCODER, MODELS
from flux_contract.modes import MODES, REDUX, TEXT2IMG, Mode, Needs
from flux_tools.documents import table

#: Allowed difference between bytes in memory and in the files, as a share of the latter.
TOLERANCE = 0.01

SIGLIP, EMBEDDER, CLIP, T5 = "SigLIP", "Redux embedder", "CLIP", "T5"
VAE_ENCODER = "VAE encoder"
TRANSFORMER, VAE, CONTROLNET = "transformer", "VAE", "ControlNet"
FUSED, ADAPTER = "added by fused layers", "one LoRA adapter"

#: Weights of each optional part of the checkpoints.
_OF_NEEDS = {Needs.TEXT_ENCODERS: (CLIP, T5), Needs.CONTROLNET: (CONTROLNET,)}
#: Labels of the modes whose input other modes accept too.
_LABELS = {REDUX.name: "image guidance, as in redux", TEXT2IMG.name: "prompts, as in text2img"}


def weights_of(mode: Mode) -> tuple[str, ...]:
    """Return the weights of this mode that not every mode needs."""
    models = [step.model for step in mode.ensemble.steps]
    redux = (SIGLIP, EMBEDDER) if mode == REDUX else ()
    encoder = (VAE_ENCODER,) if FLUX_VAE_ENCODER in models else ()
    return (*redux, *encoder, *(weights for need in mode.needs for weights in _OF_NEEDS[need]))


def wanted_weights(modes: Sequence[Mode] = MODES) -> dict[str, tuple[str, ...]]:
    """Return the weights of each feature. Features may share weights."""
    return {
        "every mode": (TRANSFORMER, VAE, FUSED),
        **{_LABELS.get(mode.name, mode.name): weights_of(mode) for mode in modes},
        "an adapter": (ADAPTER,),
    }


@dataclass(frozen=True)
class MemoryPart:
    """A part of a model. weights: bytes in each process of the model."""

    model: str
    name: str
    weights: int


@dataclass(frozen=True)
class Loaded:
    """Weights that a process of the model loads: bytes in memory and bytes in their files."""

    model: str
    weights: int
    files: int

    @property
    def is_loaded_once(self) -> bool:
        return abs(self.weights - self.files) <= TOLERANCE * self.files


def sections(
    demo: Sequence[MemoryPart],
    dev: Sequence[MemoryPart],
    loaded: Sequence[Loaded],
    resident: Mapping[str, Sequence[int]],
) -> dict[str, str]:
    """Return every section, by the name of its marker. dev: the same parts as demo, in the same order."""
    return {
        "modes": modes(demo, dev),
        "processes": processes(demo, dev, resident),
        "files": files(loaded),
    }


def modes(demo: Sequence[MemoryPart], dev: Sequence[MemoryPart]) -> str:
    rows = []
    for wanted, names in wanted_weights().items():
        sizes = [sum(part.weights for part in parts if part.name in names) for parts in (demo, dev)]
        shown = ", ".join(name for name in names if name != FUSED)
        rows.append([wanted, shown, megabytes(sizes[0]), gigabytes(sizes[1])])
    return table(["feature", "weights", "demo, float32", "FLUX.1-dev, bfloat16"], rows)


def processes(demo: Sequence[MemoryPart], dev: Sequence[MemoryPart], resident: Mapping[str, Sequence[int]]) -> str:
    rows = []
    for model in MODELS:
        pairs = [pair for pair in zip(demo, dev, strict=True) if pair[0].model == model.name]
        sizes = [[of_demo.name, megabytes(of_demo.weights), gigabytes(of_dev.weights)] for of_demo, of_dev in pairs]
        process = [f"`{model.name}`", instances(resident.get(model.name, []))]
        for name, of_demo, of_dev in sizes or [["none", "–", "–"]]:
            rows.append([process[0], name, of_demo, of_dev, process[1]])
            process = ["", ""]
    head = ["process", "weights", "demo, float32", "FLUX.1-dev, bfloat16", "resident, demo"]
    return table(head, rows)


def files(loaded: Sequence[Loaded]) -> str:
    rows = [[f"`{one.model}`", megabytes(one.weights), megabytes(one.files)] for one in loaded]
    return table(["process", "weights in memory", "weights in files"], rows)


def instances(sizes: Sequence[int]) -> str:
    """Return a text such as `2 x 45 MB`, with the size of the largest instance."""
    if not sizes:
        return "–"
    count = f"{len(sizes)} x " if len(sizes) > 1 else ""
    return f"{count}{max(sizes) / 1e6:.0f} MB"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
