"""What a server is told at start-up: checkpoints from the environment, the rest from `config.pbtxt` parameters.

Read once, at the edge; nothing else looks at the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_serving.contract.models import Model
from flux_serving.errors import CannotStart

BASE_VARIABLE = "FLUX_MODEL_PATH"
REDUX_VARIABLE = "FLUX_REDUX_MODEL_PATH"

DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Checkpoints:
    """Folders in stock diffusers layout."""

    #: A `FluxPipeline`: transformer, VAE, scheduler; text encoders and tokenizers where prompts are wanted.
    base: Path
    #: A `FluxPriorReduxPipeline`: SigLIP, its processor, the Redux embedder.
    redux: Path

    #: Sub-folders that must be there.
    BASE_PARTS = ("transformer", "vae", "scheduler")
    REDUX_PARTS = ("image_encoder", "feature_extractor", "image_embedder")
    #: Sub-folders of the base that make prompts work, all of them or none.
    TEXT_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Checkpoints:
        """Raises CannotStart: a variable is unset."""
        variables = (BASE_VARIABLE, REDUX_VARIABLE)
        if unset := [variable for variable in variables if not environment.get(variable)]:
            raise CannotStart(f"not set: {', '.join(unset)}; each names a checkpoint folder in diffusers layout")
        return cls(*(Path(environment[variable]).expanduser() for variable in variables))

    def missing(self) -> list[str]:
        """What is missing, a line each, naming variable and path; empty when both folders are complete."""
        lines = []
        for variable, folder, parts in (
            (BASE_VARIABLE, self.base, self.BASE_PARTS),
            (REDUX_VARIABLE, self.redux, self.REDUX_PARTS),
        ):
            if not folder.is_dir():
                lines.append(f"{variable}: no folder {folder}")
                continue
            for part in ("model_index.json", *parts):
                if not (folder / part).exists():
                    lines.append(f"{variable}: {folder} has no {part}")
        return lines

    def has_text_encoders(self) -> bool:
        return all((self.base / part).is_dir() for part in self.TEXT_PARTS)


@dataclass(frozen=True)
class ModelSettings:
    """The parameters of one model, parsed."""

    #: Weights and arithmetic; one of DTYPES.
    dtype: str = "auto"
    #: Images that may wait or run in one instance of `flux_base`.
    max_waiting: int = 64

    @classmethod
    def from_config(cls, model: Model, config: Mapping[str, Any]) -> ModelSettings:
        """config: Triton's model configuration as parsed JSON.

        Raises CannotStart: a parameter that the contract doesn't know, or a value out of range.
        """
        known = {parameter.name: parameter.default for parameter in model.parameters}
        given = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        for name in given:
            if name not in known:
                raise CannotStart(f"{model.name}: unknown parameter {name}, expected {', '.join(known) or 'none'}")
        values = known | given
        dtype = values.get("DTYPE", cls.dtype)
        if dtype not in DTYPES:
            raise CannotStart(f"{model.name}: parameter DTYPE={dtype}, expected one of {', '.join(DTYPES)}")
        waiting = values.get("MAX_WAITING", str(cls.max_waiting))
        if not waiting.isdecimal() or int(waiting) < 1:
            raise CannotStart(f"{model.name}: parameter MAX_WAITING={waiting}, expected a number from 1")
        return cls(dtype, int(waiting))
