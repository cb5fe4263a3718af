"""The cost of denoising steps, fitted to measured steps: seconds = overhead + seconds per token * tokens."""

from __future__ import annotations

from typing import NamedTuple

#: Assumed number of tokens that take as long as the overhead of a step. On an H100 and a CPU, it is 420 to 460
#: (tools/flux_tools/simulation/machine.py).
OVERHEAD_TOKENS = 440
#: Assumed seconds per token, about those of FLUX.1 on an H100 and of the demo checkpoint on a CPU.
TOKEN_S = 4e-5
#: Weight of the assumption, as a number of measured steps.
_ASSUMED_STEPS = 4.0
#: Each new step multiplies the weights of all earlier steps by this factor, so the last hundred steps dominate.
_FADING = 0.99


class Costs(NamedTuple):
    """The cost of a step: overhead, and seconds per token."""

    overhead_s: float = OVERHEAD_TOKENS * TOKEN_S
    token_s: float = TOKEN_S

    def step_s(self, tokens: int) -> float:
        """Returns the seconds of a step with this many tokens."""
        return self.overhead_s + self.token_s * tokens


class StepCosts:
    """Fits the cost of steps to the latest steps by least squares.

    latest: None before the first step. While all steps have the same size, the ratio of overhead to token cost is the
    assumed one. One thread calls `observe`; other threads may read `latest` at the same time.
    """

    latest: Costs | None

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget all observed steps. Call it only while no step runs."""
        self.latest = None
        self._count = self._tokens = self._seconds = self._tokens_squared = self._tokens_seconds = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Record a step. tokens: number computed, padding included."""
        self._count = _FADING * self._count + 1.0
        self._tokens = _FADING * self._tokens + tokens
        self._seconds = _FADING * self._seconds + seconds
        self._tokens_squared = _FADING * self._tokens_squared + tokens * tokens
        self._tokens_seconds = _FADING * self._tokens_seconds + tokens * seconds
        self.latest = self._fitted()

    def _fitted(self) -> Costs:
        """Least squares with a regularisation term that draws overhead_s / token_s towards OVERHEAD_TOKENS."""
        count = self._count + _ASSUMED_STEPS
        tokens = self._tokens - _ASSUMED_STEPS * OVERHEAD_TOKENS
        squared = self._tokens_squared + _ASSUMED_STEPS * OVERHEAD_TOKENS**2
        determinant = count * squared - tokens * tokens
        overhead_s = (squared * self._seconds - tokens * self._tokens_seconds) / determinant
        token_s = (count * self._tokens_seconds - tokens * self._seconds) / determinant
        if overhead_s < 0 or token_s < 0:
            token_s = self._seconds / (self._tokens + self._count * OVERHEAD_TOKENS)
            overhead_s = OVERHEAD_TOKENS * token_s
        return Costs(overhead_s, token_s)
