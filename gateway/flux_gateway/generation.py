"""One generation, asked of Triton by `flux_stream`, so that it ends there when nobody waits for it any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flux_client import AsyncFluxClient, Event, FluxError, ModeName
from flux_gateway.server_messages import for_callers
from flux_gateway.tracing import current_traceparent


@dataclass(frozen=True)
class GenerationRequest:
    """What to make, whichever API asked for it.

    images: encoded pictures, the first of which img2img changes. knobs: as `AsyncFluxClient.stream` takes them; None is
    not sent. size_field: the request's field that a too large size is reported for; None: `height` or `width`.
    """

    mode: ModeName
    images: Sequence[bytes] = field(default=(), repr=False)
    knobs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    size_field: str | None = None

    def with_knob(self, name: str, value: object) -> GenerationRequest:
        """The same but for this."""
        return replace(self, knobs={**self.knobs, name: value})


class Generator:
    """Makes what is wanted."""

    def __init__(self, client: AsyncFluxClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def events(
        self, wanted: GenerationRequest, request_id: str, preview_steps: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """Progress, then the variations. Closing it ends the work at Triton.

        Raises the errors of `AsyncFluxClient`, in words for callers.
        """
        stream = self._client.stream(
            list(wanted.images) or None,
            mode=wanted.mode,
            preview_steps=preview_steps,
            timeout_s=self._timeout_s,
            request_id=request_id,
            traceparent=current_traceparent(),
            **wanted.knobs,
        )
        async with stream:
            # What is wrong with the arguments was raised before, in words of the client's own.
            try:
                async for event in stream:
                    yield event
            except FluxError as error:
                raise for_callers(error, request_id) from error
