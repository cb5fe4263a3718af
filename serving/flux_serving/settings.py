"""What a server is told at start-up: checkpoints from the environment, the rest from `config.pbtxt` parameters.

Read once, at the edge; nothing else looks at the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flux_contract import limits
from flux_contract.environment import (
    BASE_VARIABLE,
    CONTROLNET_VARIABLE,
    LORA_VARIABLE,
    OPTIONAL,
    REDUX_VARIABLE,
    REQUIRED,
    VAE_VARIABLE,
)
from flux_contract.errors import CannotStart
from flux_contract.models import Model
from flux_contract.modes import MODES, Needs
from flux_serving.checkpoint_files import (
    DIFFUSERS_MODEL,
    IMAGE_PROCESSOR,
    SCHEDULER,
    TOKENIZER,
    TRANSFORMERS_MODEL,
    Component,
    missing_files,
    missing_index,
    single_file_problem,
)

#: What a request for edge control is told without one.
NO_CONTROLNET = f"this server has no ControlNet; {CONTROLNET_VARIABLE} names its folder"
NO_TEXT_ENCODERS = "the base checkpoint has no text encoders"

DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("auto", "mask", "merge")


@dataclass(frozen=True)
class Checkpoints:
    """Folders in stock diffusers layout."""

    #: A `FluxPipeline`: transformer, VAE, scheduler; text encoders and tokenizers where prompts are wanted.
    base: Path
    #: A `FluxPriorReduxPipeline`: SigLIP, its processor, the Redux embedder.
    redux: Path
    #: An `AutoencoderKL` instead of the base's.
    vae: Path | None = None
    #: A `FluxControlNetModel` for Canny edges.
    controlnet: Path | None = None
    #: Adapters as diffusers saves them, `NAME.safetensors` each.
    loras: Path | None = None

    #: Components that must be there.
    BASE_PARTS = MappingProxyType({"transformer": DIFFUSERS_MODEL, "vae": DIFFUSERS_MODEL, "scheduler": SCHEDULER})
    REDUX_PARTS = MappingProxyType(
        {"image_encoder": TRANSFORMERS_MODEL, "feature_extractor": IMAGE_PROCESSOR, "image_embedder": DIFFUSERS_MODEL}
    )
    #: Components of the base that prompts need, all of them or none.
    TEXT_PARTS = MappingProxyType(
        {
            "text_encoder": TRANSFORMERS_MODEL,
            "text_encoder_2": TRANSFORMERS_MODEL,
            "tokenizer": TOKENIZER,
            "tokenizer_2": TOKENIZER,
        }
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Checkpoints:
        """Raises CannotStart: a variable is unset."""
        if unset := [variable for variable in REQUIRED if not environment.get(variable)]:
            raise CannotStart(f"not set: {', '.join(unset)}; each names a checkpoint folder in diffusers layout")
        return cls(
            *(_folder(environment[variable]) for variable in REQUIRED),
            *(_folder(environment[name]) if environment.get(name) else None for name in OPTIONAL),
        )

    def as_environment(self) -> dict[str, str]:
        """The same for another process: absolute paths, and nothing for what is not there."""
        variables = (*REQUIRED, *OPTIONAL)
        paths = (self.base, self.redux, self.vae, self.controlnet, self.loras)
        return {name: str(path.resolve()) if path else "" for name, path in zip(variables, paths, strict=True)}

    @property
    def vae_folder(self) -> Path:
        return self.vae or self.base / "vae"

    def image_sides(self) -> tuple[int, int]:
        """Pixels of a side of the checkpoint's own image size, and what a side is a multiple of."""
        config = json.loads((self.vae_folder / "config.json").read_text())
        # The VAE halves the image between its blocks, and packing halves it once more.
        return config["sample_size"], 2 ** len(config["block_out_channels"])

    def missing(self) -> list[str]:
        """What is missing, a line each, naming variable and path; empty when every checkpoint is complete."""
        problems = {
            BASE_VARIABLE: _pipeline_problems(self.base, self._base_parts()),
            REDUX_VARIABLE: _pipeline_problems(self.redux, self.REDUX_PARTS),
        }
        for variable, model in ((VAE_VARIABLE, self.vae), (CONTROLNET_VARIABLE, self.controlnet)):
            if model is not None:
                problems[variable] = _folder_problems(model) or missing_files(model, DIFFUSERS_MODEL)
        if self.loras is not None and not self.loras.is_dir():
            problem = f"no folder {self.loras}"
            if self.loras.is_file():
                problem = f"{self.loras} is a file, expected the folder that it is in"
            problems[LORA_VARIABLE] = [problem]
        return [f"{variable}: {line}" for variable, lines in problems.items() for line in lines]

    def has_text_encoders(self) -> bool:
        return all((self.base / part).is_dir() for part in self.TEXT_PARTS)

    def unserved_modes(self) -> dict[str, str]:
        """Modes that these checkpoints cannot serve, each with the reason."""
        missing = {}
        if not self.has_text_encoders():
            missing[Needs.TEXT_ENCODERS] = NO_TEXT_ENCODERS
        if self.controlnet is None:
            missing[Needs.CONTROLNET] = NO_CONTROLNET
        return {mode.name: missing[need] for mode in MODES for need in mode.needs if need in missing}

    def _base_parts(self) -> dict[str, Component]:
        """With all that prompts need, where it has any of that: then it is a half checkpoint without the others."""
        has_text = any((self.base / part).exists() for part in self.TEXT_PARTS)
        return {**self.BASE_PARTS, **(self.TEXT_PARTS if has_text else {})}


def _folder_problems(folder: Path) -> list[str]:
    if folder.is_file():
        return [single_file_problem(folder)]
    return [] if folder.is_dir() else [f"no folder {folder}"]


def _pipeline_problems(folder: Path, parts: Mapping[str, Component]) -> list[str]:
    if problems := _folder_problems(folder):
        return problems
    lines = missing_index(folder)
    for part, component in parts.items():
        lines += missing_files(folder / part, component)
    return lines


def _folder(variable: str) -> Path:
    """The folder that a variable names, by a path that every library can open.

    Tokenizers take paths in UTF-8 only, which Triton's stub cannot give for names that aren't ASCII. There it is the
    folder's descriptor, which stays open, as /proc/self/fd/NUMBER; `resolve` gives its real path.
    """
    path = Path(variable).expanduser()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        if path.is_dir():
            return Path(f"/proc/self/fd/{os.open(path, os.O_RDONLY | os.O_DIRECTORY)}")
    return path


#: Parameters that Triton's Python backend itself reads.
_TRITONS_OWN = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")


@dataclass(frozen=True)
class ModelSettings:
    """The parameters of one model, parsed."""

    #: Weights and arithmetic; one of DTYPES.
    dtype: str = "auto"
    #: Images that may wait or run in one instance of `flux_base`.
    max_waiting: int = 64
    #: Images that share one denoising step at most.
    max_rows: int = 16
    #: Tokens that share one denoising step at most; None: as the device is.
    step_tokens: int | None = None
    #: Denoising steps where a request says none; None: as the checkpoint is.
    default_steps: int | None = None
    #: LoRA adapters that stay in memory while no request uses them.
    max_adapters: int = 8
    #: How token weights reach attention; one of ATTENTIONS.
    attention: str = "auto"
    #: Requests that may wait or be in work in one instance.
    max_pending: int = limits.DEFAULT_PENDING
    #: Requests whose images are decoded or encoded at once.
    workers: int = 2
    #: CPU seconds that decoding the images of one request may take.
    decode_s: int = limits.DEFAULT_DECODE_SECONDS

    @classmethod
    def from_config(cls, model: Model, config: Mapping[str, Any]) -> ModelSettings:
        """config: Triton's model configuration as parsed JSON.

        Raises CannotStart: a parameter that the contract doesn't know, or a value out of range.
        """
        known = {parameter.name: parameter.default for parameter in model.parameters}
        given = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        for name in given:
            if name not in known and name not in _TRITONS_OWN:
                raise CannotStart(f"{model.name}: unknown parameter {name}, expected {', '.join(known) or 'none'}")
        read = _ParameterReader(model.name, known | given)
        return cls(
            dtype=read.choice("DTYPE", DTYPES, cls.dtype),
            max_waiting=read.count("MAX_WAITING", cls.max_waiting),
            max_rows=read.count("MAX_ROWS", cls.max_rows),
            step_tokens=read.count_or_auto("STEP_TOKENS"),
            default_steps=read.count_or_auto("DEFAULT_STEPS", limits.MAX_STEPS),
            max_adapters=read.count("MAX_ADAPTERS", cls.max_adapters),
            attention=read.choice("ATTENTION", ATTENTIONS, cls.attention),
            max_pending=read.count("MAX_PENDING", cls.max_pending),
            workers=read.count("WORKERS", cls.workers),
            decode_s=read.count("DECODE_SECONDS", cls.decode_s),
        )


@dataclass(frozen=True)
class _ParameterReader:
    """Parameters of one model by name; one that the model doesn't have is its default."""

    model: str
    values: Mapping[str, str]

    def text(self, name: str, default: str) -> str:
        return self.values.get(name, default)

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise CannotStart(f"{self.model}: parameter {name}={value}, expected one of {', '.join(choices)}")
        return value

    def count(self, name: str, default: int, most: int | None = None) -> int:
        value = self.text(name, str(default))
        if not value.isdecimal() or not 1 <= int(value) <= (most or int(value)):
            expected = "a number from 1" if most is None else f"1..{most}"
            raise CannotStart(f"{self.model}: parameter {name}={value}, expected {expected}")
        return int(value)

    def count_or_auto(self, name: str, most: int | None = None) -> int | None:
        return None if self.text(name, "auto") == "auto" else self.count(name, 0, most)
