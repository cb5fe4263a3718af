"""Compares the processes of each Python model with the instances in its configuration."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Mapping
from typing import Any

from flux_contract.models import MODELS
from flux_serving.launch.urls import fetch, loopback_of


def configured_instances(host: str, port: int, timeout_s: float) -> dict[str, int]:
    """Returns the number of configured instances of each Python model that Triton has loaded.

    timeout_s: of each request. Raises OSError: Triton does not answer.
    """
    # Not from the repository index, because the launcher restricts that API.
    url = f"http://{loopback_of(host)}:{port}/v2/models"
    configs = [config for model in MODELS if (config := _config(f"{url}/{model.name}/config", timeout_s)) is not None]
    return {config["name"]: _count(config) for config in configs if config.get("backend") == "python"}


def missing_processes(configured: Mapping[str, int], running: Mapping[str, int]) -> list[str]:
    """Returns a message for each model with too few processes: `flux_base: 0 of 1 processes are alive`."""
    return [
        f"{model}: {running.get(model, 0)} of {count} processes are alive"
        for model, count in configured.items()
        if running.get(model, 0) < count
    ]


def _config(url: str, timeout_s: float) -> dict[str, Any] | None:
    """Returns the model's configuration; None if Triton does not have the model. Raises OSError."""
    try:
        config: dict[str, Any] = json.loads(fetch(url, timeout_s))
    except urllib.error.HTTPError as error:
        if error.code not in (400, 404):
            raise
        return None
    return config


def _count(config: dict[str, Any]) -> int:
    return sum(group.get("count", 1) * max(1, len(group.get("gpus", []))) for group in config["instance_group"])
