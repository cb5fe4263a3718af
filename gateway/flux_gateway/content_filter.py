"""What looks at each image before it leaves, previews too: FLUX.1-dev's licence asks for a filter or a review."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from typing import TypeAlias

from PIL import Image

from flux_client import Event, Progress
from flux_contract.errors import CannotStart
from flux_gateway.refusals import Refusal

#: Of the entry points among which `FLUX_GATEWAY_CONTENT_FILTER` chooses.
GROUP = "flux_gateway.content_filters"
#: Seconds that one look may take.
MOST_S = 30.0
#: Why this image must not leave; None: it may. Called in a thread, several at once.
Check: TypeAlias = Callable[[Image.Image], "str | None"]
_LOG = logging.getLogger(__name__)


class ContentFilter:
    """Fails closed: no image leaves that the check could not look at."""

    def __init__(self, check: Check, most_s: float = MOST_S) -> None:
        self._check = check
        self._most_s = most_s
        # Of its own, so that a check that hangs takes no other work's threads.
        self._threads = ThreadPoolExecutor(4, "content-filter")

    async def look(self, event: Event) -> None:
        """Raises Refusal: 400, it must not leave; 500, the check broke or took too long."""
        image = event.preview if isinstance(event, Progress) else event
        if image is None:
            return
        looking = asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._check(image.image))
        try:
            reason = await asyncio.wait_for(looking, self._most_s)
        except Exception as error:
            _LOG.error("the content filter broke: %s", type(error).__name__)
            raise Refusal(500, "the content filter broke, so no image leaves") from error
        if reason is not None:
            raise Refusal(400, f"withheld by the content filter: {reason}", code="content_policy_violation")


def content_filter(name: str) -> ContentFilter | None:
    """name: of the entry point; "" is no filter. Raises CannotStart: it is not installed, or cannot be loaded."""
    if not name:
        return None
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name not in installed:
        raise CannotStart(f"content filter {name!r}, expected one of: {', '.join(installed) or '(none installed)'}")
    try:
        check = installed[name].load()
    except Exception as error:
        raise CannotStart(f"content filter {name!r} cannot be loaded: {error}") from error
    if not callable(check):
        raise CannotStart(f"content filter {name!r} cannot be called")
    return ContentFilter(check)
