"""Inpainting: after each step, the part of the latents outside the mask is replaced by the noised source image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flux_serving.sampling.starting import noised


@dataclass(frozen=True)
class KeptSource:
    """The source image of one inpainted image. All tensors are (image tokens, channels), on the CPU.

    noise: the initial noise of the generated image. mask: 0..1, 1 where the image is generated.
    """

    source: Tensor
    noise: Tensor
    mask: Tensor

    def blend(self, estimate: Tensor) -> Tensor:
        """estimate: (image tokens, channels), of an image without noise, on any device."""
        return _mixed(self.source.to(estimate), estimate, self.mask.to(estimate))


class KeptSources:
    """The source images of the rows of a batch that are inpainted.

    rows: their indices in the batch. device, dtype: of the batch's latents.
    """

    def __init__(self, kept: Sequence[tuple[int, KeptSource]], latents: Tensor) -> None:
        """latents: (rows, image tokens, channels), of the whole batch."""
        self._rows = torch.tensor([row for row, _ in kept], device=latents.device)
        self._source, self._noise, self._mask = (
            torch.stack(part).to(latents)
            for part in zip(*((each.source, each.noise, each.mask) for _, each in kept), strict=True)
        )

    def blend(self, latents: Tensor, sigmas: Tensor) -> Tensor:
        """latents: (rows, image tokens, channels), after a step. sigmas: (rows,), float32, reached by this step.

        Source: diffusers, `FluxInpaintPipeline.__call__`, step 6.
        """
        kept = noised(self._source, self._noise, sigmas[self._rows, None, None])
        return latents.index_copy(0, self._rows, _mixed(kept, latents[self._rows], self._mask))


def _mixed(kept: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    return (1 - mask) * kept + mask * generated
