"""Environment variables of the servers, and conversion of paths to text."""

from __future__ import annotations

import os
from pathlib import Path

BASE_VARIABLE = "FLUX_MODEL_PATH"
REDUX_VARIABLE = "FLUX_REDUX_MODEL_PATH"
#: Optional: a VAE instead of the base checkpoint's, a ControlNet for edges, and a folder of LoRA adapters.
VAE_VARIABLE = "FLUX_VAE_MODEL_PATH"
CONTROLNET_VARIABLE = "FLUX_CONTROLNET_MODEL_PATH"
LORA_VARIABLE = "FLUX_LORA_PATH"
#: Variables of checkpoint folders, in the order of the fields of `flux_serving.settings.Checkpoints`.
REQUIRED = (BASE_VARIABLE, REDUX_VARIABLE)
OPTIONAL = (VAE_VARIABLE, CONTROLNET_VARIABLE, LORA_VARIABLE)
#: Folder in which the models of one server exchange progress and load. Default: a folder in the temporary folder.
FOLDER_VARIABLE = "FLUX_SERVER_FOLDER"
#: Name prefix of the file that a model's process creates in that folder after loading. The process id follows.
LOADED_PREFIX = "loaded-"
#: All variables that the models read.
VARIABLES = (*REQUIRED, *OPTIONAL, FOLDER_VARIABLE)


def shown(path: str | Path) -> str:
    """Return a path as UTF-8 text, whatever the interpreter's encoding of file names.

    Triton's stub uses ASCII and decodes other bytes to surrogates, which cannot be sent, logged or compared.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
