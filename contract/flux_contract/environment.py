"""Environment variables that the servers read, and how paths from the environment become text."""

from __future__ import annotations

import os
from pathlib import Path

BASE_VARIABLE = "FLUX_MODEL_PATH"
REDUX_VARIABLE = "FLUX_REDUX_MODEL_PATH"
#: Optional: a VAE instead of the base checkpoint's, a ControlNet that follows edges, and a folder of LoRA adapters.
VAE_VARIABLE = "FLUX_VAE_MODEL_PATH"
CONTROLNET_VARIABLE = "FLUX_CONTROLNET_MODEL_PATH"
LORA_VARIABLE = "FLUX_LORA_PATH"
#: Names of checkpoint folders, in the order of the fields of `flux_serving.settings.Checkpoints`.
REQUIRED = (BASE_VARIABLE, REDUX_VARIABLE)
OPTIONAL = (VAE_VARIABLE, CONTROLNET_VARIABLE, LORA_VARIABLE)
#: Folder through which the models of one server exchange progress and load; unset: one under the temporary folder.
FOLDER_VARIABLE = "FLUX_SERVER_FOLDER"
#: All that the models read.
VARIABLES = (*REQUIRED, *OPTIONAL, FOLDER_VARIABLE)


def shown(path: str | Path) -> str:
    """A path or a file's name as text: UTF-8, whatever encoding this interpreter has for file names.

    Triton's stub has ASCII, so a byte that isn't is a surrogate there, which cannot be sent, logged or compared.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
