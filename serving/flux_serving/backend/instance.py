"""The start-up and shutdown that all models share, with the arguments that Triton passes to a model instance."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from flux_contract.models import Model
from flux_serving.backend.heartbeat import Heartbeat
from flux_serving.backend.parent import end_with_parent
from flux_serving.settings import ModelSettings


@dataclass(frozen=True)
class Instance:
    """One instance of a model.

    name: Triton's name, such as `flux_base_0_0`; on a GPU followed by its number, such as `flux_base_0_0_gpu7`, because
    Triton gives all instances of a group the same name. settings: of this model. device: a torch device, such as
    `cuda:7`. heartbeat: the model begins it when it is ready; `close` stops it.
    """

    name: str
    settings: ModelSettings
    device: str
    heartbeat: Heartbeat

    @classmethod
    def start(cls, model: Model, args: Mapping[str, str]) -> Instance:
        """Start an instance. args: Triton's arguments of `initialize`. Raises CannotStart: a parameter is invalid."""
        end_with_parent()
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        # Its warnings about long prompts quote the prompts.
        logging.getLogger("diffusers.pipelines").setLevel(logging.ERROR)
        on_gpu = args["model_instance_kind"] == "GPU"
        device_id = args["model_instance_device_id"]
        name = args["model_instance_name"] + (f"_gpu{device_id}" if on_gpu else "")
        return cls(
            name=name,
            settings=ModelSettings.from_config(model, json.loads(args["model_config"])),
            device=f"cuda:{device_id}" if on_gpu else "cpu",
            heartbeat=Heartbeat(model.name, name),
        )

    def close(self) -> None:
        self.heartbeat.stop()
