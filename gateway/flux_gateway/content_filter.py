"""Content filter for images and previews. The licence of FLUX.1-dev requires a filter or a review."""

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

#: Group of the entry points from which `FLUX_GATEWAY_CONTENT_FILTER` selects one.
GROUP = "flux_gateway.content_filters"
#: Maximum seconds of one check.
MOST_S = 30.0
#: Returns the reason to withhold an image, or None to release it. Called concurrently, in threads.
Check: TypeAlias = Callable[[Image.Image], "str | None"]
_LOG = logging.getLogger(__name__)


class ContentFilter:
    """Checks images before they are sent. If the check fails, the image is withheld."""

    def __init__(self, check: Check, most_s: float = MOST_S) -> None:
        self._check = check
        self._most_s = most_s
        # A separate pool, so that a check that hangs does not block other work.
        self._threads = ThreadPoolExecutor(4, "content-filter")

    async def look(self, event: Event) -> None:
        """Check an event's image or preview. Raises Refusal: 400, it is withheld; 500, the check failed."""
        image = event.preview if isinstance(event, Progress) else event
        if image is None:
            return
        looking = asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._check(image.image))
        try:
            reason = await asyncio.wait_for(looking, self._most_s)
        except Exception as error:
            _LOG.error("the content filter failed: %s", type(error).__name__)
            raise Refusal(500, "the content filter failed, so the image is withheld") from error
        if reason is not None:
            raise Refusal(400, f"withheld by the content filter: {reason}", code="content_policy_violation")


def content_filter(name: str) -> ContentFilter | None:
    """Load a content filter. name: of the entry point; empty for none.

    Raises CannotStart: the entry point is not installed or cannot be loaded.
    """
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
        raise CannotStart(f"content filter {name!r} is not callable")
    return ContentFilter(check)
