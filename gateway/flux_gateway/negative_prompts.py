"""The negative prompt and its true CFG scale, which are valid only together."""

from __future__ import annotations

from typing import Any

from flux_gateway.refusals import Refusal


def negative_knobs(prompt: str | None, scale: float | None) -> dict[str, Any]:
    """The arguments to send. An empty prompt without a scale is treated as absent.

    Raises Refusal: 422, a scale other than 1 without a prompt. Triton refuses a prompt without a scale.
    """
    has_scale = scale is not None and scale != 1
    if has_scale and prompt is None:
        raise Refusal(422, "true_cfg_scale: needs negative_prompt, which may be empty in JSON", "true_cfg_scale")
    if not (prompt or has_scale):
        return {}
    return {"negative_prompt": prompt, "true_cfg_scale": scale}
