"""The asynchronous client. It shares everything that does not wait with `FluxClient`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from PIL import Image

from flux_client.async_stream import AsyncStream
from flux_client.edges import read_edges
from flux_client.image_result import ImageResult, read_results
from flux_client.images import ImageInput, ImageInputs
from flux_client.instance_load import InstanceLoad, load_request, read_instances
from flux_client.keywords import (
    CannyOptions,
    EdgesOptions,
    Img2ImgOptions,
    InpaintOptions,
    ModeName,
    PreviewMethod,
    ReduxOptions,
    StreamOptions,
    Text2ImgOptions,
)
from flux_client.opening import ProtocolName, open_async_transport, usual_policy
from flux_client.readiness import PROBE_S, UNTIL_READY, gave_up, not_ready
from flux_client.request import Request, call_request, edges_request, stream_request
from flux_client.retry import DEFAULT_TIMEOUT_S, RetryBudget, RetryPolicy
from flux_client.transport import Answer, AsyncTransport
from flux_contract.errors import FluxError
from flux_contract.models import FLUX_REDUX, FLUX_STATUS, FLUX_STREAM
from flux_contract.modes import BY_NAME

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_T = TypeVar("_T")


class AsyncFluxClient:
    """Asynchronous client for one event loop, whose tasks may share it. Arguments and errors are as in `FluxClient`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        protocol: ProtocolName = "grpc",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        transport: AsyncTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport or open_async_transport(protocol, url)
        self._timeout_s = timeout_s
        self._retry = retry or usual_policy(url)
        self._clock = clock
        self._sleep = sleep

    async def redux(
        self,
        images: ImageInputs,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[ReduxOptions],
    ) -> list[ImageResult]:
        """`FluxClient.redux`. A thread reads and encodes the images. Cancelling the task cancels the request."""
        return await self._make("redux", {"images": images, **options}, timeout_s, request_id)

    async def img2img(
        self,
        images: ImageInputs,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Img2ImgOptions],
    ) -> list[ImageResult]:
        """`FluxClient.img2img`."""
        return await self._make("img2img", {"images": images, **options}, timeout_s, request_id)

    async def text2img(
        self,
        prompt: str,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Text2ImgOptions],
    ) -> list[ImageResult]:
        """`FluxClient.text2img`."""
        return await self._make("text2img", {"prompt": prompt, **options}, timeout_s, request_id)

    async def inpaint(
        self,
        source_image: ImageInput,
        mask_image: ImageInput,
        *,
        images: ImageInputs | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[InpaintOptions],
    ) -> list[ImageResult]:
        """`FluxClient.inpaint`."""
        arguments = {"source_image": source_image, "mask_image": mask_image, "images": images, **options}
        return await self._make("inpaint", arguments, timeout_s, request_id)

    async def canny(
        self,
        control_image: ImageInput,
        *,
        images: ImageInputs | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[CannyOptions],
    ) -> list[ImageResult]:
        """`FluxClient.canny`."""
        arguments = {"control_image": control_image, "images": images, **options}
        return await self._make("canny", arguments, timeout_s, request_id)

    async def edges(
        self,
        control_image: ImageInput,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[EdgesOptions],
    ) -> Image.Image:
        """`FluxClient.edges`."""
        request = partial(edges_request, {"control_image": control_image, **options})
        return await asyncio.to_thread(read_edges, await self._ask(request, timeout_s, request_id))

    def stream(
        self,
        images: ImageInputs | None = None,
        *,
        mode: ModeName = "redux",
        preview_steps: int | None = None,
        preview_method: PreviewMethod | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **options: Unpack[StreamOptions],
    ) -> AsyncStream:
        """`FluxClient.stream`, for use with `async with` and `async for`. Iteration raises all errors.

            async with client.stream("cat.png", preview_steps=5) as stream:
                async for event in stream:
                    ...

        `stream.cancel()` is not a coroutine. Cancelling the task that waits for an event cancels the request, too.
        """
        budget = self._budget(self._retry, timeout_s)
        arguments = {**options, "preview_steps": preview_steps, "preview_method": preview_method}
        name, transport = request_id or uuid.uuid4().hex, self._transport
        return AsyncStream(
            lambda: asyncio.to_thread(stream_request, mode, images, arguments, traceparent),
            lambda request, left_s: transport.stream(request, left_s, name),
            budget,
            self._sleep,
        )

    async def wait_until_ready(
        self, timeout_s: float | None = None, *, on_wait: Callable[[FluxError], object] | None = None
    ) -> None:
        """`FluxClient.wait_until_ready`."""
        budget = self._budget(UNTIL_READY, timeout_s)
        try:
            await self._persist(budget, lambda: self._check_ready(min(budget.left_s(), PROBE_S)), on_wait)
        except UNTIL_READY.retried as error:
            raise gave_up(error) from error

    async def ready_modes(self, timeout_s: float = PROBE_S) -> list[ModeName]:
        """`FluxClient.ready_modes`."""
        if not await self._transport.is_ready(FLUX_STREAM.name, timeout_s):
            return []
        return [
            mode
            for mode in get_args(ModeName)
            if await self._transport.is_ready(BY_NAME[mode].ensemble.name, timeout_s)
        ]

    async def instances(self, timeout_s: float = PROBE_S) -> list[InstanceLoad]:
        """`FluxClient.instances`."""
        if not await self._transport.is_ready(FLUX_STATUS.name, timeout_s):
            return []
        return read_instances(await self._transport.infer(load_request(), timeout_s, uuid.uuid4().hex))

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _make(
        self, mode: ModeName, arguments: Mapping[str, Any], timeout_s: float | None, request_id: str | None
    ) -> list[ImageResult]:
        request = partial(call_request, mode, arguments)
        return read_results(await self._ask(request, timeout_s, request_id), BY_NAME[mode].ensemble.name)

    async def _ask(self, prepare: Callable[[], Request], timeout_s: float | None, request_id: str | None) -> Answer:
        budget = self._budget(self._retry, timeout_s)
        request = await asyncio.to_thread(prepare)
        name = request_id or uuid.uuid4().hex
        return await self._persist(budget, lambda: self._transport.infer(request, budget.left_s(), name))

    def _budget(self, policy: RetryPolicy, timeout_s: float | None) -> RetryBudget:
        return RetryBudget(policy, self._timeout_s if timeout_s is None else timeout_s, self._clock)

    async def _check_ready(self, timeout_s: float) -> None:
        if not await self._transport.is_ready(FLUX_REDUX.name, timeout_s):
            raise not_ready()

    async def _persist(
        self,
        budget: RetryBudget,
        call: Callable[[], Awaitable[_T]],
        on_wait: Callable[[FluxError], object] | None = None,
    ) -> _T:
        while True:
            try:
                return await call()
            except FluxError as error:
                pause_s = budget.pause_after(error)
                if on_wait is not None:
                    on_wait(error)
            await self._sleep(pause_s)
