"""Measures how much faster a step is when IMAGE_DETAIL pools the 729 image tokens of FLUX.1's SigLIP.

python -m flux_tools.bench.detail     prints a table for docs/redux-control.md
"""

from __future__ import annotations

from functools import partial

import torch

from flux_serving.conditioning.context import ContextPart, assemble, no_text
from flux_serving.conditioning.detail import pooled
from flux_serving.conditioning.prompt_encoding import POOLED_WIDTH, text_parts
from flux_serving.conditioning.span import ALWAYS
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_tools.bench.ceiling import CeilingSteps, parameters, seconds_per_step
from flux_tools.documents import table

DETAILS, SIDES = (1, 2, 3, 9), (256, 512)
FLUX_TOKENS = 27 * 27


def main() -> None:
    steps = CeilingSteps()
    width = steps.sampler.base.transformer.config.joint_attention_dim
    tokens = torch.randn(FLUX_TOKENS, width, generator=torch.Generator().manual_seed(0))
    text = no_text(width, POOLED_WIDTH, tokens)
    rows = []
    for side in SIDES:
        seconds = []
        for detail in DETAILS:
            fewer, weights = pooled(tokens, None, detail, "area")
            context = assemble([*text_parts(text, ALWAYS, 1.0), ContextPart(fewer, weights)], text.pooled)
            works = steps.sampler.begin(parameters(side, seed=0), SamplerInputs(context))
            seconds.append(seconds_per_step(partial(steps.sampler.step, works)))
        rows.append([f"{side}x{side}", *(f"{seconds[0] / of_one:.1f}" for of_one in seconds)])
    counts = [f"{detail}: {max(1, 27 // detail) ** 2} tokens" for detail in DETAILS]
    print(table(["steps per second, `IMAGE_DETAIL` 1 = 1", *counts], rows))


if __name__ == "__main__":
    main()
