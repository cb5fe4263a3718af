"""The denoising steps at which an image, a prompt or a ControlNet is used. Does not import torch, for CPU models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A range of steps, as fractions of the number of steps: it contains step i of n if start <= i / n < end."""

    start: float = 0.0
    end: float = 1.0


ALWAYS = Span()
