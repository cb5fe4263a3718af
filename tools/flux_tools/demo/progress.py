"""How far a demo has come, which an interrupted demo reports. Imports only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Phase(Enum):
    PREPARING = "before Triton started"
    STARTING = "while Triton was starting"
    GENERATING = "while generating variations"
    SERVING = "while serving"
    STOPPING = "while Triton was stopping"


@dataclass
class Progress:
    """What the demo is doing, and the number of variations that it has written to the folder `output`."""

    output: Path
    phase: Phase = Phase.PREPARING
    written: int = 0

    def interruption(self) -> str:
        """Return the line that an interrupted demo prints."""
        result = f"{self.written} images are in {self.output}" if self.written else "no images were generated"
        return f"interrupted {self.phase.value}; {result}"
