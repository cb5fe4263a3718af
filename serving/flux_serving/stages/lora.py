"""LoRA adapters, from files as diffusers reads them to what is added to the transformer's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from diffusers import FluxPipeline
from torch import Tensor

from flux_serving.contract.knobs import LORA
from flux_serving.errors import InvalidRequest
from flux_serving.settings import shown
from flux_serving.stages.projections import Additions, LowRank
from flux_serving.stages.transformer import Transformer

#: By the names of the layers.
Adapter: TypeAlias = Mapping[str, LowRank]

_OF_TRANSFORMER = "transformer."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def read_adapter(file: Path, transformer: Transformer) -> Adapter:
    """On the transformer's device, in its dtype. file: safetensors, in any of the formats that diffusers converts.

    Source of the scaling: PEFT, which diffusers uses: alpha over rank, and alpha is the rank where the file has none.
    Raises InvalidRequest: it is no adapter, or not one for this transformer.
    """
    try:
        weights, alphas, metadata = FluxPipeline.lora_state_dict(
            str(file), return_alphas=True, return_lora_metadata=True, use_safetensors=True, local_files_only=True
        )
    except Exception as error:
        raise InvalidRequest(f"{LORA.name}={shown(file.stem)!r} cannot be read: {type(error).__name__}") from error
    names = [key.removesuffix(_DOWN).removeprefix(_OF_TRANSFORMER) for key in weights if key.endswith(_DOWN)]
    expected = {f"{_OF_TRANSFORMER}{name}{end}" for name in names for end in (_DOWN, _UP)}
    strange = sorted((weights.keys() ^ expected) | {name for name in names if name not in transformer.layers})
    if strange or not names:
        found = ", ".join(strange[:3]) or "nothing"
        raise InvalidRequest(
            f"{LORA.name}={shown(file.stem)!r} is not for this server: beside LoRA weights of the transformer's linear "
            f"layers it has {found}"
        )
    scales = _scales(names, weights, alphas or {}, metadata or {})
    additions = {}
    for name in names:
        down, up = weights[f"{_OF_TRANSFORMER}{name}{_DOWN}"], weights[f"{_OF_TRANSFORMER}{name}{_UP}"]
        layer = transformer.stock.get_submodule(name)
        if (down.shape[1], up.shape[0]) != (layer.in_features, layer.out_features) or down.shape[0] != up.shape[1]:
            raise InvalidRequest(f"{LORA.name}={shown(file.stem)!r} is not for this server: {name} has other widths")
        additions[name] = LowRank(transformer.hold(down), transformer.hold(up), scales[name])
    return additions


def _scales(
    names: Sequence[str], weights: Mapping[str, Tensor], alphas: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> dict[str, float]:
    """Of each layer, by the file's alphas or, where it has PEFT's configuration, by that."""
    general = metadata.get(f"{_OF_TRANSFORMER}lora_alpha")
    patterns = metadata.get(f"{_OF_TRANSFORMER}alpha_pattern") or {}
    scales = {}
    for name in names:
        rank = weights[f"{_OF_TRANSFORMER}{name}{_DOWN}"].shape[0]
        own = alphas.get(f"{_OF_TRANSFORMER}{name}.alpha")
        alpha = patterns.get(name, general) if own is None else float(own)
        scales[name] = 1.0 if alpha is None else alpha / rank
    return scales


def summed(adapters: Sequence[tuple[Adapter, float]]) -> Additions:
    """Several adapters, each with its scale; none is copied."""
    names = dict.fromkeys(name for adapter, _ in adapters for name in adapter)
    return {
        name: [replace(own[name], scale=own[name].scale * scale) for own, scale in adapters if name in own]
        for name in names
    }
