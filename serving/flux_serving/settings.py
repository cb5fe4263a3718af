"""Settings of a server: checkpoints from environment variables, the rest from `config.pbtxt` parameters.

They are read once, at start-up.
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

#: Errors of requests for modes that the checkpoints cannot serve.
NO_CONTROLNET = f"this server has no ControlNet; set {CONTROLNET_VARIABLE} to its folder"
NO_TEXT_ENCODERS = "the base checkpoint has no text encoders"

DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("auto", "mask", "merge")


@dataclass(frozen=True)
class Checkpoints:
    """The folders of the checkpoints, in stock diffusers layout."""

    #: A `FluxPipeline`: transformer, VAE, scheduler; optionally text encoders and tokenizers, for prompts.
    base: Path
    #: A `FluxPriorReduxPipeline`: SigLIP, its processor, the Redux embedder.
    redux: Path
    #: An `AutoencoderKL` that replaces the base checkpoint's.
    vae: Path | None = None
    #: A `FluxControlNetModel` for Canny edges.
    controlnet: Path | None = None
    #: A folder of LoRA adapters as diffusers saves them, each named `NAME.safetensors`.
    loras: Path | None = None

    #: Required components.
    BASE_PARTS = MappingProxyType({"transformer": DIFFUSERS_MODEL, "vae": DIFFUSERS_MODEL, "scheduler": SCHEDULER})
    REDUX_PARTS = MappingProxyType(
        {"image_encoder": TRANSFORMERS_MODEL, "feature_extractor": IMAGE_PROCESSOR, "image_embedder": DIFFUSERS_MODEL}
    )
    #: Components of the base that prompts need; a checkpoint has all of them or none.
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
        """Read the variables. Raises CannotStart: a required variable is not set."""
        if unset := [variable for variable in REQUIRED if not environment.get(variable)]:
            raise CannotStart(f"not set: {', '.join(unset)}; each names a checkpoint folder in diffusers layout")
        return cls(
            *(_folder(environment[variable]) for variable in REQUIRED),
            *(_folder(environment[name]) if environment.get(name) else None for name in OPTIONAL),
        )

    def as_environment(self) -> dict[str, str]:
        """Returns the variables for another process, with absolute paths; empty for checkpoints that are not set."""
        variables = (*REQUIRED, *OPTIONAL)
        paths = (self.base, self.redux, self.vae, self.controlnet, self.loras)
        return {name: str(path.resolve()) if path else "" for name, path in zip(variables, paths, strict=True)}

    @property
    def vae_folder(self) -> Path:
        return self.vae or self.base / "vae"

    def image_sides(self) -> tuple[int, int]:
        """Returns the side of the checkpoint's native image size and the number that divides all sides, in pixels."""
        config = json.loads((self.vae_folder / "config.json").read_text())
        # The VAE halves the image between its blocks, and packing halves it once more.
        return config["sample_size"], 2 ** len(config["block_out_channels"])

    def missing(self) -> list[str]:
        """Returns a line for each problem, with variable and path; empty if every checkpoint is complete."""
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
                problem = f"{self.loras} is a file, expected the folder that contains it"
            problems[LORA_VARIABLE] = [problem]
        return [f"{variable}: {line}" for variable, lines in problems.items() for line in lines]

    def has_text_encoders(self) -> bool:
        return all((self.base / part).is_dir() for part in self.TEXT_PARTS)

    def unserved_modes(self) -> dict[str, str]:
        """Returns the modes that these checkpoints cannot serve, each with the reason."""
        missing = {}
        if not self.has_text_encoders():
            missing[Needs.TEXT_ENCODERS] = NO_TEXT_ENCODERS
        if self.controlnet is None:
            missing[Needs.CONTROLNET] = NO_CONTROLNET
        return {mode.name: missing[need] for mode in MODES for need in mode.needs if need in missing}

    def _base_parts(self) -> dict[str, Component]:
        """Returns the base's components. If any of TEXT_PARTS exists, all are required."""
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
    """Returns a path to the variable's folder that every library can open.

    Tokenizers accept only UTF-8 paths, which Triton's stub cannot provide for names that are not ASCII. For these the
    path is /proc/self/fd/NUMBER, with a descriptor that stays open; `resolve` returns the real path.
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

    #: Type of weights and arithmetic; one of DTYPES.
    dtype: str = "auto"
    #: Images that may wait or run in one instance of `flux_base`.
    max_waiting: int = 64
    #: Maximum number of images that share a denoising step.
    max_rows: int = 16
    #: Maximum number of tokens that share a denoising step; None: the device's default.
    step_tokens: int | None = None
    #: Default number of denoising steps; None: the checkpoint's.
    default_steps: int | None = None
    #: LoRA adapters that stay in memory while no request uses them.
    max_adapters: int = 8
    #: How token weights reach attention; one of ATTENTIONS.
    attention: str = "auto"
    #: Requests that may wait or run in one instance.
    max_pending: int = limits.DEFAULT_PENDING
    #: Requests whose images are decoded or encoded in parallel.
    workers: int = 2
    #: CPU seconds that decoding the images of one request may take.
    decode_s: int = limits.DEFAULT_DECODE_SECONDS

    @classmethod
    def from_config(cls, model: Model, config: Mapping[str, Any]) -> ModelSettings:
        """Parse a model's parameters. config: Triton's model configuration as parsed JSON.

        Raises CannotStart: a parameter is not in the contract, or a value is out of range.
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
    """Reads the parameters of one model by name. Parameters that the model does not have return their default."""

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
            expected = "an integer above 0" if most is None else f"1..{most}"
            raise CannotStart(f"{self.model}: parameter {name}={value}, expected {expected}")
        return int(value)

    def count_or_auto(self, name: str, most: int | None = None) -> int | None:
        return None if self.text(name, "auto") == "auto" else self.count(name, 0, most)
