"""What Triton tells a model instance at start-up, and the start-up and the end that all models share."""

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
    """name: Triton's, such as `flux_base_0_0`, and on a GPU its number, such as `flux_base_0_0_gpu7`, because Triton
    gives the instances of one group on several GPUs the same name. settings: of this model. device: a torch device,
    such as `cuda:7`.

    heartbeat: the model begins it when it is ready; `close` stops it.
    """

    name: str
    settings: ModelSettings
    device: str
    heartbeat: Heartbeat

    @classmethod
    def start(cls, model: Model, args: Mapping[str, str]) -> Instance:
        """args: what Triton hands to `initialize`. Raises CannotStart: a parameter is wrong."""
        end_with_parent()
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        # Its warnings of prompts that are too long quote them.
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
