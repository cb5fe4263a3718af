"""Computes the scale of each layer of a LoRA adapter as diffusers and PEFT do.

Source: diffusers, `get_peft_kwargs`, and PEFT, `get_pattern_key` and `LoraLayer.update_layer`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from flux_contract.errors import InvalidRequest

#: Defaults of PEFT's `LoraConfig`.
_DEFAULT_RANK = _DEFAULT_ALPHA = 8
#: Settings of `LoraConfig` that change more than the scale. If one is on, the adapter is unsupported.
_MUST_BE_OFF = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_qalora",
)
#: Supported values of `init_lora_weights`. The other values change the base weights.
_PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


def scales(
    ranks: Mapping[str, int], alphas: Mapping[str, Tensor], metadata: Mapping[str, Any] | None
) -> dict[str, float]:
    """Returns the scale of each layer, by which the product of its two factors is multiplied.

    ranks: by layer, in the file's order. alphas: by `LAYER.alpha`. metadata: the arguments of PEFT's `LoraConfig`.
    Raises InvalidRequest, without the file's name: the metadata is invalid or unsupported, or contradicts the weights.
    """
    if metadata is None:
        return _scales(ranks, _from_weights(ranks, alphas))
    _check(metadata)
    try:
        return _scales(ranks, metadata)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, re.error) as error:
        raise InvalidRequest(f"has invalid lora_adapter_metadata: {error}") from error


def _scales(ranks: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for layer, rank in ranks.items():
        expected = _of_layer(layer, config.get("rank_pattern"), config.get("r", _DEFAULT_RANK))
        if int(expected) != rank:
            raise InvalidRequest(f"has rank {expected} for {layer} in its metadata, but rank {rank} in its weights")
        alpha = float(_of_layer(layer, config.get("alpha_pattern"), config.get("lora_alpha", _DEFAULT_ALPHA)))
        found[layer] = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        if not math.isfinite(found[layer]):
            raise InvalidRequest(f"has alpha {alpha} for {layer}, expected a finite number")
    return found


def _from_weights(ranks: Mapping[str, int], alphas: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the configuration that diffusers derives for a file without metadata."""
    from diffusers.utils import get_peft_kwargs

    by_weight = {f"^{layer}.lora_B.weight": rank for layer, rank in ranks.items()}
    config: dict[str, Any] = get_peft_kwargs(by_weight, dict(alphas), dict.fromkeys(by_weight))
    return config


def _of_layer(layer: str, pattern: Mapping[str, Any] | None, otherwise: Any) -> Any:
    """Returns the value of the first key of the pattern that matches the end of the layer's name."""
    key = _matching_key(layer, pattern or {})
    return otherwise if key is None else (pattern or {})[key]


def _matching_key(layer: str, keys: Iterable[str]) -> str | None:
    return next((key for key in keys if re.match(rf"(.*\.)?({key})$", layer)), None)


def _check(metadata: Mapping[str, Any]) -> None:
    if not isinstance(metadata, Mapping):
        raise InvalidRequest("has invalid lora_adapter_metadata: it is not a JSON object")
    wrong = {name: metadata[name] for name in _MUST_BE_OFF if metadata.get(name)}
    for name, plain in (("bias", (None, "none")), ("init_lora_weights", _PLAIN_INITS)):
        if name in metadata and metadata[name] not in plain:
            wrong[name] = metadata[name]
    if str(metadata.get("peft_type") or "lora").lower() != "lora":
        wrong["peft_type"] = metadata["peft_type"]
    if wrong:
        found = ", ".join(f"{name}={str(value)[:40]}" for name, value in wrong.items())
        raise InvalidRequest(f"has unsupported settings in its lora_adapter_metadata: {found}")
