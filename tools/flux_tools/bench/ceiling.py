"""Times denoising steps in a loop, without server, queue and decoding: an upper bound for a server.

python -m flux_tools.bench.ceiling ANSWER.json SIDE ROWS [ROWS ...]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from flux_contract.limits import DEFAULT_STEPS, EMPTY_PROMPT_TOKENS, MAX_STEPS
from flux_contract.parameters import GUIDANCE_SCALE, HEIGHT, NUM_INFERENCE_STEPS, SEED, WIDTH
from flux_serving.backend.sampling_options import read_sampling_parameters
from flux_serving.conditioning.context import ContextPart, EncodedPrompt, assemble, no_text
from flux_serving.conditioning.prompt_encoding import POOLED_WIDTH, text_parts
from flux_serving.conditioning.redux_prior import encode_images
from flux_serving.conditioning.span import ALWAYS
from flux_serving.images.image_size import Sides
from flux_serving.network.weights import load_base, load_prior
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_tools.bench.checkpoint import CHECKPOINTS
from flux_tools.bench.images import image
from flux_tools.bench.plan import GUIDANCE

#: Minimum duration in seconds and minimum number of the timed steps.
AT_LEAST_S, AT_LEAST_STEPS = 2.0, 3


class CeilingSteps:
    """Denoising steps of this engine and of stock diffusers, with the same weights and images.

    A prompt is 512 different random tokens, like FLUX.1's T5 returns. The padding tokens of the demo's own prompts are
    equal, so they would be merged into one.
    """

    def __init__(self) -> None:
        cpu = torch.device("cpu")
        self.sampler = Sampler(load_base(CHECKPOINTS, cpu, torch.float32))
        self.prior = load_prior(CHECKPOINTS, cpu, torch.float32)

    def images(self, rows: int) -> list[torch.Tensor]:
        """Return the Redux tokens of `rows` different images."""
        return encode_images(self.prior, [image(row) for row in range(rows)])

    def raw_loop(self, rows: int, side: int, has_prompt: bool) -> Callable[[], object]:
        """Return one step of this engine over `rows` jobs, each with its own image."""
        works = []
        for row, tokens in enumerate(self.images(rows)):
            text = no_text(tokens.shape[1], POOLED_WIDTH, tokens)
            if has_prompt:
                text = EncodedPrompt(prompt(tokens.shape[1], seed=row), 1.0, text.pooled)
            parts = [*text_parts(text, ALWAYS, strength=1.0), ContextPart(tokens, torch.ones(len(tokens)))]
            works += self.sampler.begin(parameters(side, seed=row), SamplerInputs(assemble(parts, text.pooled)))
        return lambda: self.sampler.step(works)

    def stock_loop(self, rows: int, side: int, has_prompt: bool) -> Callable[[], object]:
        """Return one step of the stock transformer, with the inputs that FluxPipeline passes to it.

        These are the image's tokens and 512 text tokens, which are zero without a prompt.
        """
        base = self.sampler.base
        tokens = torch.stack(self.images(rows))
        text = tokens.new_zeros(rows, EMPTY_PROMPT_TOKENS, tokens.shape[2])
        if has_prompt:
            text = torch.stack([prompt(tokens.shape[2], seed=row) for row in range(rows)])
        context = torch.cat([text, tokens], dim=1)
        channels = base.transformer.config.in_channels
        grid = side // base.token_side
        place = torch.arange(grid, dtype=torch.float32)
        ids = torch.stack([torch.zeros(grid, grid), *torch.meshgrid(place, place, indexing="ij")], dim=-1)
        inputs = {
            "hidden_states": torch.randn(rows, grid * grid, channels),
            "encoder_hidden_states": context,
            "pooled_projections": torch.zeros(rows, POOLED_WIDTH),
            "timestep": torch.full((rows,), 0.5),
            "guidance": torch.full((rows,), GUIDANCE),
            "txt_ids": torch.zeros(context.shape[1], 3),
            "img_ids": ids.reshape(-1, 3),
        }

        @torch.no_grad()
        def step() -> None:
            base.transformer(**inputs, return_dict=False)

        return step


def prompt(width: int, seed: int) -> torch.Tensor:
    """Return 512 different text tokens."""
    return torch.randn(EMPTY_PROMPT_TOKENS, width, generator=torch.Generator().manual_seed(seed))


def parameters(side: int, seed: int) -> SamplingParameters:
    """Return sampling parameters as `flux_base` reads them from a request."""
    asked = {HEIGHT: side, WIDTH: side, NUM_INFERENCE_STEPS: MAX_STEPS, GUIDANCE_SCALE: GUIDANCE, SEED: seed}
    values = {tensor.name: tensor.array(value) for tensor, value in asked.items()}
    return read_sampling_parameters(values, Sides(side, 16), DEFAULT_STEPS)


def seconds_per_step(step: Callable[[], object]) -> float:
    step()
    began, taken = time.perf_counter(), 0
    while taken < MAX_STEPS - 1 and (taken < AT_LEAST_STEPS or time.perf_counter() - began < AT_LEAST_S):
        step()
        taken += 1
    return (time.perf_counter() - began) / taken


def main(arguments: Sequence[str]) -> None:
    answer, side, *rows = arguments
    steps = CeilingSteps()
    measured = [
        {
            "code": code,
            "side": int(side),
            "rows": int(count),
            "has_prompt": has_prompt,
            "step_s": seconds_per_step(loop(int(count), int(side), has_prompt)),
        }
        for count in rows
        for has_prompt in (False, True)
        for code, loop in (("ours", steps.raw_loop), ("stock", steps.stock_loop))
    ]
    Path(answer).write_text(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
