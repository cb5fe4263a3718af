"""The denoising steps at which an image, a prompt or a ControlNet is used. Without torch: CPU models import it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A range of the steps, as fractions of all steps: step i of n belongs to it if start <= i / n < end."""

    start: float = 0.0
    end: float = 1.0


ALWAYS = Span()
