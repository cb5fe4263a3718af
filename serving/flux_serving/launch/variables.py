"""Reports environment variables that start with FLUX_ but are unknown, which are probably misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from flux_contract.environment import VARIABLES
from flux_serving.launch.exposure import KEY_VARIABLE

_PREFIX = "FLUX_"
#: Prefix of the gateway's variables. The gateway itself rejects unknown ones.
_GATEWAY = "FLUX_GATEWAY_"
#: Variables of the models, of the launcher, and of `scripts/start.sh`.
_KNOWN = (*VARIABLES, KEY_VARIABLE, "FLUX_REDUX_GPUS")


def unknown_variables(environment: Mapping[str, str], has_gateway: bool = True) -> list[str]:
    """Returns a message for each unknown variable, with the nearest known one.

    has_gateway: whether a gateway is started. Without one, its variables have no effect and are reported, too.
    """
    lines = []
    for name in sorted(environment):
        if name.startswith(_GATEWAY):
            if not has_gateway:
                lines.append(f"{name} has no effect without --gateway-port")
        elif name.startswith(_PREFIX) and name not in _KNOWN:
            near = difflib.get_close_matches(name, (*_KNOWN, *_as_gateways(name)), 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KNOWN)} and {_GATEWAY}..."
            lines.append(f"{name} is unknown and ignored; {hint}")
    return lines


def _as_gateways(name: str) -> list[str]:
    """Returns FLUX_GATEWAY_PORT for FLUX_GATEWY_PORT; empty if the second word does not resemble GATEWAY."""
    _, word, *rest = name.split("_", 2)
    return [_GATEWAY + rest[0]] if rest and difflib.get_close_matches(word, ["GATEWAY"]) else []
