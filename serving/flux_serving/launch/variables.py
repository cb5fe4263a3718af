"""Variables of the environment that begin as ours do and that nothing reads, which are mistakes most of the time."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from flux_contract.environment import VARIABLES
from flux_serving.launch.exposure import KEY_VARIABLE

_PREFIX = "FLUX_"
#: The gateway's, which refuses unknown ones itself.
_GATEWAY = "FLUX_GATEWAY_"
#: What `scripts/start.sh` reads, and the launcher.
_KNOWN = (*VARIABLES, KEY_VARIABLE, "FLUX_REDUX_GPUS")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A line for each, which names the known variable that is most like it."""
    lines = []
    for name in sorted(environment):
        if name.startswith(_PREFIX) and not name.startswith(_GATEWAY) and name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KNOWN)} and {_GATEWAY}..."
            lines.append(f"{name} is unknown and ignored; {hint}")
    return lines
