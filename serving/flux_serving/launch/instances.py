"""How many processes each Python model of a Triton must have, by its configuration, and which models lack some."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Mapping
from typing import Any

from flux_serving.contract.models import MODELS
from flux_serving.launch.urls import fetch, loopback_of


def configured_instances(host: str, port: int, timeout_s: float) -> dict[str, int]:
    """Instances of each Python model that the Triton there has loaded. timeout_s: of each request.

    Raises OSError: Triton does not answer.
    """
    # Not the repository's index, an API that the launcher restricts.
    url = f"http://{loopback_of(host)}:{port}/v2/models"
    configs = [config for model in MODELS if (config := _config(f"{url}/{model.name}/config", timeout_s)) is not None]
    return {config["name"]: _count(config) for config in configs if config.get("backend") == "python"}


def missing_processes(configured: Mapping[str, int], running: Mapping[str, int]) -> list[str]:
    """Models that have fewer processes than instances, in words: `flux_base: 0 of 1 processes are alive`."""
    return [
        f"{model}: {running.get(model, 0)} of {count} processes are alive"
        for model, count in configured.items()
        if running.get(model, 0) < count
    ]


def _config(url: str, timeout_s: float) -> dict[str, Any] | None:
    """None: there is no such model here. Raises OSError."""
    try:
        config: dict[str, Any] = json.loads(fetch(url, timeout_s))
    except urllib.error.HTTPError as error:
        if error.code not in (400, 404):
            raise
        return None
    return config


def _count(config: dict[str, Any]) -> int:
    return sum(group.get("count", 1) * max(1, len(group.get("gpus", []))) for group in config["instance_group"])
