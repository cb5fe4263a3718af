"""Formatting of numbers for docs/scaling.md."""

from __future__ import annotations


def number(value: float) -> str:
    """Return the value with about three significant digits."""
    if value >= 1000:
        return f"{round(value, -1):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
