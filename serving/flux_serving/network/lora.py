"""Reads LoRA adapters from files and matches them to the transformer's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from flux_contract import limits
from flux_contract.environment import shown
from flux_contract.errors import InvalidRequest
from flux_contract.parameters import LORA
from flux_serving.network.lora_file import LoraFile, read_lora_file
from flux_serving.network.lora_scale import scales
from flux_serving.network.projections import Additions, LowRank
from flux_serving.network.transformer import Transformer

#: The weights of one adapter, by layer name.
Adapter: TypeAlias = Mapping[str, LowRank]

_DOWN, _UP, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


def read_adapter(file: Path, transformer: Transformer) -> Adapter:
    """Read an adapter, on the transformer's device and in its dtype.

    file: safetensors, in any of the formats that diffusers converts. It is read completely: if a memory-mapped file
    were truncated later, the process would crash.
    Raises InvalidRequest: the file is not an adapter, does not fit this transformer, or has unsupported content.
    """
    try:
        try:
            return _bound(read_lora_file(_content(file)), transformer)
        except OSError as error:
            raise InvalidRequest(f"cannot be read: {error.strerror}") from error
        except MemoryError as error:
            raise InvalidRequest("cannot be read: too large for the free memory") from error
    except InvalidRequest as error:
        raise InvalidRequest(f"{LORA.name}={shown(file.stem)!r} {error}") from error.__cause__


def _content(file: Path) -> bytes:
    """Read the file. Raises InvalidRequest: it is too large. Raises OSError: it cannot be read."""
    size = file.stat().st_size
    if size > limits.MAX_LORA_FILE_BYTES:
        raise InvalidRequest(
            f"cannot be read: the file has {size} bytes, expected at most {limits.MAX_LORA_FILE_BYTES}"
        )
    return file.read_bytes()


def _bound(file: LoraFile, transformer: Transformer) -> Adapter:
    """Match the file's weights to the transformer's layers. Raises InvalidRequest: they do not fit."""
    weights = file.weights
    names = [key.removesuffix(_DOWN) for key in weights if key.endswith(_DOWN)]
    if not names and not weights:
        raise InvalidRequest("changes no layer: it has no LoRA weights for the transformer")
    expected = {f"{name}{end}" for name in names for end in (_DOWN, _UP)}
    strange = weights.keys() ^ expected | {name for name in names if name not in transformer.layers}
    strange |= {key for key in file.alphas if key.removesuffix(_ALPHA) not in names}
    if strange:
        raise InvalidRequest(
            "does not fit this server's model: expected LoRA weights for linear layers of the transformer, found "
            f"{', '.join(sorted(strange)[:3])}"
        )
    ranks = {}
    for name in names:
        down, up = weights[f"{name}{_DOWN}"], weights[f"{name}{_UP}"]
        layer = transformer.stock.get_submodule(name)
        if not (
            down.ndim == up.ndim == 2
            and (down.shape[1], up.shape[0]) == (layer.in_features, layer.out_features)
            and down.shape[0] == up.shape[1] > 0
        ):
            raise InvalidRequest(
                f"does not fit this server's model: {name} has shapes {list(down.shape)} and {list(up.shape)}, "
                f"expected [rank, {layer.in_features}] and [{layer.out_features}, rank]"
            )
        ranks[name] = down.shape[0]
    scale = scales(ranks, file.alphas, file.metadata)
    return {
        name: LowRank(
            transformer.hold(weights[f"{name}{_DOWN}"]), transformer.hold(weights[f"{name}{_UP}"]), scale[name]
        )
        for name in names
    }


def summed(adapters: Sequence[tuple[Adapter, float]]) -> Additions:
    """Combine several adapters, each with its scale. Their weights are not copied."""
    names = dict.fromkeys(name for adapter, _ in adapters for name in adapter)
    return {
        name: [replace(own[name], scale=own[name].scale * scale) for own, scale in adapters if name in own]
        for name in names
    }
