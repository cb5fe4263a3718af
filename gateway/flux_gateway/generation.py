"""Runs generations through `flux_stream`, so that Triton cancels them when the client disconnects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from flux_client import AsyncFluxClient, Event, FluxError, ModeName
from flux_contract import limits
from flux_contract.modes import Mode
from flux_contract.parameters import NUM_IMAGES, OUTPUT_FORMAT
from flux_gateway.server_messages import for_callers
from flux_gateway.tracing import current_traceparent


@dataclass(frozen=True)
class GenerationRequest:
    """A request to Triton, independent of the API that received it.

    images: encoded images; a mode that changes an image changes the first. keywords: of `AsyncFluxClient.stream`; None
    is not sent. size_field: field to name if the size is too large; None for `height` or `width`.
    """

    mode: Mode
    images: Sequence[bytes] = field(default=(), repr=False)
    keywords: Mapping[str, Any] = field(default_factory=dict, repr=False)
    size_field: str | None = None

    @property
    def count(self) -> int:
        """Number of images to generate."""
        return int(self.keywords.get(NUM_IMAGES.python_name) or limits.DEFAULT_IMAGES)

    @property
    def output_format(self) -> str:
        return str(self.keywords.get(OUTPUT_FORMAT.python_name) or limits.DEFAULT_FORMAT)

    def with_keyword(self, name: str, value: object) -> GenerationRequest:
        """Return the request with a new value of this keyword."""
        return replace(self, keywords={**self.keywords, name: value})


class Generator:
    """Sends requests to Triton."""

    def __init__(self, client: AsyncFluxClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def events(
        self, wanted: GenerationRequest, request_id: str, preview_steps: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield progress, then the results. Closing the generator cancels the request on the server.

        Raises the errors of `AsyncFluxClient`, with messages for callers.
        """
        stream = self._client.stream(
            list(wanted.images) or None,
            mode=cast(ModeName, wanted.mode.name),
            preview_steps=preview_steps,
            timeout_s=self._timeout_s,
            request_id=request_id,
            traceparent=current_traceparent(),
            **wanted.keywords,
        )
        async with stream:
            # Invalid arguments were rejected above, with the client's own messages.
            try:
                async for event in stream:
                    yield event
            except FluxError as error:
                raise for_callers(error, request_id) from error
