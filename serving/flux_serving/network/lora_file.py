"""Reads the weights of a LoRA file and renames them to diffusers' names.

diffusers converts the formats. Some of its converters silently skip keys; here each skipped key is an error, unless it
has no effect.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flux_contract.errors import InvalidRequest

_OF_TRANSFORMER = "transformer."
_KOHYA_DOWN, _MIXTURE = ".lora_down.weight", "lora_transformer_"
#: Prefixes of the keys that diffusers reads from Kohya's and ComfyUI's files, except those of the text encoders.
_KOHYA_TRANSFORMER = ("lora_unet_", "diffusion_model.")
_TEXT_ENCODER = ("text_encoder", "lora_te", "clip_l.", "t5xxl.")
#: Unsupported content of adapters, by a part of its key.
_UNSUPPORTED = {
    "lora_magnitude_vector": "DoRA magnitudes",
    "dora_scale": "DoRA magnitudes",
    "lokr_": "LoKr factors",
    "hada_": "LoHa factors",
    "lora_embedding_": "embeddings",
    "lora_B.bias": "biases",
}
#: Suffixes of keys that change biases and norms, which diffusers skips.
_DIFFERENCES = (".diff", ".diff_b")
_SHOWN_KEYS = 3


@dataclass(frozen=True)
class LoraFile:
    """The content of a LoRA file.

    weights: by `LAYER.lora_A.weight`, (rank, inputs), and `LAYER.lora_B.weight`, (outputs, rank). alphas: by
    `LAYER.alpha`. metadata: PEFT's configuration; None if the file has none.
    """

    weights: dict[str, Tensor]
    alphas: dict[str, Tensor]
    metadata: dict[str, Any] | None


def read_lora_file(content: bytes) -> LoraFile:
    """Read a safetensors file in any of the formats that diffusers converts for FLUX.

    Raises InvalidRequest, without the file's name: the file cannot be read or has keys that diffusers would skip.
    """
    try:
        raw, header = _read_safetensors(content)
    except Exception as error:
        raise InvalidRequest(f"cannot be read: {_in_words(error)}") from error
    _check(raw)
    raw = {key: value for key, value in raw.items() if not (_is_of_text_encoder(key) or key.endswith(_DIFFERENCES))}
    if not raw:
        raise InvalidRequest("changes no layer: it has no LoRA weights for the transformer")
    try:
        converted, alphas, metadata = _convert(raw, header)
    except Exception as error:
        raise InvalidRequest(f"cannot be read: {_in_words(error)}") from error
    if alphas and metadata is not None:
        raise InvalidRequest("has alpha keys as well as lora_adapter_metadata, expected only one of them")
    foreign = [key for key in (*converted, *alphas) if not key.startswith(_OF_TRANSFORMER)]
    if foreign:
        raise InvalidRequest(f"does not fit this server's model: {_listed(foreign)} not for the transformer")
    return LoraFile(_stripped(converted), _stripped(alphas), None if metadata is None else _stripped(metadata))


def _read_safetensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors and the header's metadata."""
    from safetensors.torch import load

    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    return tensors, json.loads(content[8 : 8 + size]).get("__metadata__") or {}


def _convert(
    raw: dict[str, Tensor], header: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any] | None]:
    """Convert as diffusers does, up to the values that it passes to PEFT."""
    from diffusers import FluxPipeline
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from diffusers.utils import convert_unet_state_dict_to_peft

    weights, alphas = FluxPipeline.lora_state_dict(raw, return_alphas=True)
    if weights and "lora_A" not in next(iter(weights)):
        weights = convert_unet_state_dict_to_peft(weights)
    metadata = header.get(LORA_ADAPTER_METADATA_KEY)
    return weights, alphas or {}, json.loads(metadata) if metadata else None


def _check(raw: Mapping[str, Tensor]) -> None:
    """Raises InvalidRequest: the file has keys with an effect that diffusers or this server would ignore."""
    of_text = [key for key, value in raw.items() if _is_of_text_encoder(key) and _may_have_effect(key, value)]
    if of_text:
        raise InvalidRequest(
            f"also changes the text encoder, which is unsupported: {_listed(of_text)} in the file. Remove the keys "
            f"that begin with {' or '.join(_TEXT_ENCODER[:2])}, see LoRA in docs/editing.md"
        )
    for part, meaning in _UNSUPPORTED.items():
        if found := [key for key in raw if part in key]:
            raise InvalidRequest(f"has {meaning}, which are unsupported: {_listed(found)} in the file")
    found = [key for key, value in raw.items() if key.endswith(_DIFFERENCES) and bool(value.any())]
    if found:
        raise InvalidRequest(f"changes biases or norms, which is unsupported: {_listed(found)} in the file")
    if infinite := [key for key, value in raw.items() if not bool(torch.isfinite(value.float()).all())]:
        raise InvalidRequest(f"has non-finite values: {', '.join(sorted(infinite)[:_SHOWN_KEYS])}")
    if any(_KOHYA_DOWN in key for key in raw):
        read = _prefixes_of_kohya(raw)
        lost = [key for key in raw if not key.startswith((*read, *_TEXT_ENCODER)) and not key.endswith(_DIFFERENCES)]
        if lost:
            raise InvalidRequest(f"does not fit this server's model: {_listed(lost)} not read by diffusers")


def _prefixes_of_kohya(raw: Iterable[str]) -> tuple[str, ...]:
    """Returns the prefixes that diffusers' `_convert_kohya_flux_lora_to_diffusers` reads in a file with these keys."""
    keys = list(raw)
    if any(key.startswith(_OF_TRANSFORMER) for key in keys):
        return (_OF_TRANSFORMER,)
    if any(key.startswith(_MIXTURE) for key in keys):
        return (_MIXTURE,)
    return _KOHYA_TRANSFORMER


def _is_of_text_encoder(key: str) -> bool:
    return key.startswith(_TEXT_ENCODER)


def _may_have_effect(key: str, value: Tensor) -> bool:
    """Whether a text encoder's weight can have an effect.

    `down` weights and alphas only have an effect together with `up` weights that are not 0.
    """
    is_factor = key.endswith(".alpha") or ".lora_down." in key or ".lora_A." in key or ".lora.down." in key
    return not is_factor and bool(value.any())


def _stripped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the transformer's values, with the prefix removed from their keys."""
    return {key.removeprefix(_OF_TRANSFORMER): v for key, v in values.items() if key.startswith(_OF_TRANSFORMER)}


def _listed(keys: list[str]) -> str:
    """Returns the first keys in words, with "is" or "are"."""
    shown = ", ".join(sorted(keys)[:_SHOWN_KEYS])
    rest = len(keys) - _SHOWN_KEYS
    return f"{shown} and {rest} more keys are" if rest > 0 else f"{shown} {'is' if len(keys) == 1 else 'are'}"


def _in_words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "too large for the free memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
