"""Stock diffusers: what every alternative serves, and what every answer is compared with."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from PIL import Image

from flux_bench.plan import GUIDANCE, Wish
from flux_serving.settings import Checkpoints

_NO_TEXT = dict.fromkeys(Checkpoints.TEXT_PARTS)
_T = TypeVar("_T")


class StockDiffusers:
    """The two pipelines of the Redux example, in float32 on the CPU. Not for two threads at once."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.prior = FluxPriorReduxPipeline.from_pretrained(checkpoints.redux, dtype=torch.float32, **_NO_TEXT)
        self.base = FluxPipeline.from_pretrained(checkpoints.base, dtype=torch.float32, **_NO_TEXT)
        self.base.set_progress_bar_config(disable=True)

    def variation(self, picture: Image.Image, wish: Wish) -> Image.Image:
        """One picture, as diffusers' documentation does it: `base(**prior(picture))`."""
        return self._denoise(**self.prior(picture), wishes=[wish])[0]

    def variations(self, pictures: Sequence[Image.Image], wishes: Sequence[Wish]) -> list[Image.Image]:
        """A batch; all wishes have the same size and steps. Row i starts from the noise of its own seed.

        `FluxPriorReduxPipeline.__call__` adds its pictures up into one row, so its own steps are called instead.
        """
        if len(pictures) == 1:
            return [self.variation(pictures[0], wishes[0])]
        with torch.no_grad():
            hidden = self.prior.encode_image(list(pictures), torch.device("cpu"), 1)
            tokens = self.prior.image_embedder(hidden).image_embeds
        rows, _, width = tokens.shape
        text = tokens.new_zeros(rows, 512, width)
        return self._denoise(
            prompt_embeds=torch.cat([text, tokens], dim=1),
            pooled_prompt_embeds=tokens.new_zeros(rows, 768),
            wishes=wishes,
        )

    def _denoise(
        self, prompt_embeds: torch.Tensor, pooled_prompt_embeds: torch.Tensor, wishes: Sequence[Wish]
    ) -> list[Image.Image]:
        images: list[Image.Image] = self.base(
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            height=wishes[0].side,
            width=wishes[0].side,
            num_inference_steps=wishes[0].steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator("cpu").manual_seed(wish.seed) for wish in wishes],
        ).images
        return images


def by_kind(orders: Iterable[tuple[_T, Wish]]) -> list[list[tuple[_T, Wish]]]:
    """What can share a call of the pipeline: the same size and the same steps. Order of arrival within each group."""
    groups: dict[tuple[int, int], list[tuple[_T, Wish]]] = {}
    for order in orders:
        groups.setdefault((order[1].side, order[1].steps), []).append(order)
    return list(groups.values())


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
