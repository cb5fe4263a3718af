"""What denoising steps cost, fitted to the steps that were taken: seconds = overhead + seconds of a token * tokens."""

from __future__ import annotations

from typing import NamedTuple

#: Tokens that take as long as the overhead of a step, before any step was measured: 420 to 460 by
#: scripts/flux_simulation/machine.py, of an H100 and of a CPU.
OVERHEAD_TOKENS = 440
#: Seconds of a token before any step was measured: about that of FLUX.1 on an H100, and of the demo on a CPU.
TOKEN_S = 4e-5
#: Steps that the assumed relation of the two counts for.
_ASSUMED_STEPS = 4.0
#: What an observation counts for after each newer one: the last hundred steps decide.
_FADING = 0.99


class WorkLeft(NamedTuple):
    """Steps that are left, where jobs of a group share theirs, and tokens at each step of each job."""

    steps: float = 0.0
    tokens: int = 0


class StepCosts:
    """Least squares over the latest steps. While all steps are alike, the relation of overhead and tokens is assumed.

    One thread observes; others may read meanwhile.
    """

    def __init__(self) -> None:
        self._count = self._tokens = self._seconds = self._tokens_squared = self._tokens_seconds = 0.0
        #: Seconds of a step without tokens, and of each token.
        self._costs = OVERHEAD_TOKENS * TOKEN_S, TOKEN_S

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so many seconds."""
        self._count = _FADING * self._count + 1.0
        self._tokens = _FADING * self._tokens + tokens
        self._seconds = _FADING * self._seconds + seconds
        self._tokens_squared = _FADING * self._tokens_squared + tokens * tokens
        self._tokens_seconds = _FADING * self._tokens_seconds + tokens * seconds
        self._costs = self._fitted()

    def seconds(self, work: WorkLeft) -> float:
        """Seconds that this work takes."""
        overhead_s, token_s = self._costs
        return work.steps * overhead_s + work.tokens * token_s

    def _fitted(self) -> tuple[float, float]:
        """Least squares with a term that draws overhead / seconds of a token towards OVERHEAD_TOKENS."""
        count = self._count + _ASSUMED_STEPS
        tokens = self._tokens - _ASSUMED_STEPS * OVERHEAD_TOKENS
        squared = self._tokens_squared + _ASSUMED_STEPS * OVERHEAD_TOKENS**2
        determinant = count * squared - tokens * tokens
        overhead_s = (squared * self._seconds - tokens * self._tokens_seconds) / determinant
        token_s = (count * self._tokens_seconds - tokens * self._seconds) / determinant
        if overhead_s < 0 or token_s < 0:
            token_s = self._seconds / (self._tokens + self._count * OVERHEAD_TOKENS)
            overhead_s = OVERHEAD_TOKENS * token_s
        return overhead_s, token_s
