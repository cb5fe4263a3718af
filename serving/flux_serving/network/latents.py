"""Latents: noise from a seed, and packing of latent images into the transformer's tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The grid of image tokens of one image: rows x columns. Each token covers 2x2 latents."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    def position_ids(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Returns (tokens, 3): zero, row and column of each token, for the rotary embedding."""
        rows, columns = torch.meshgrid(torch.arange(self.rows), torch.arange(self.columns), indexing="ij")
        ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1)
        return ids.reshape(self.tokens, 3).to(device, dtype)


def initial_noise(seed: int, grid: Grid, channels: int, dtype: torch.dtype) -> Tensor:
    """Returns packed standard normal noise, (tokens, 4 * channels), drawn on the CPU to be the same for all devices.

    Source: diffusers, `FluxPipeline.prepare_latents` with `torch.Generator("cpu").manual_seed(seed)`.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, channels, 2 * grid.rows, 2 * grid.columns)
    return pack_latents(torch.randn(shape, generator=generator, dtype=dtype))[0]


def pack_latents(latents: Tensor) -> Tensor:
    """Pack 2x2 latents into one token.

    latents: (batch, channels, 2 * rows, 2 * columns). Returns (batch, rows * columns, 4 * channels).
    Source: black-forest-labs/flux, sampling.py, `prepare`.
    """
    batch, channels, height, width = latents.shape
    folded = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return folded.reshape(batch, height * width // 4, 4 * channels)


def pack_mask(mask: Tensor, channels: int) -> Tensor:
    """Repeat a mask of latents for each channel and pack it as the latents are.

    mask: (2 * rows, 2 * columns). Returns (rows * columns, 4 * channels).
    Source: diffusers, `FluxInpaintPipeline.prepare_mask_latents`.
    """
    return pack_latents(mask.expand(1, channels, *mask.shape))[0]


def unpack_latents(packed: Tensor, grid: Grid) -> Tensor:
    """Undo `pack_latents`: (batch, tokens, 4 * channels) to (batch, channels, 2 * rows, 2 * columns)."""
    batch, _, width = packed.shape
    unfolded = packed.reshape(batch, grid.rows, grid.columns, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return unfolded.reshape(batch, width // 4, 2 * grid.rows, 2 * grid.columns)
