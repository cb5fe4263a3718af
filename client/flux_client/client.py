"""The synchronous client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from PIL import Image

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
from flux_client.opening import ProtocolName, open_transport, usual_policy
from flux_client.readiness import PROBE_S, UNTIL_READY, gave_up, not_ready
from flux_client.request import Request, call_request, edges_request, stream_request
from flux_client.retry import DEFAULT_TIMEOUT_S, RetryBudget, RetryPolicy
from flux_client.stream import Stream
from flux_client.transport import Answer, Transport
from flux_contract.errors import FluxError
from flux_contract.models import FLUX_REDUX, FLUX_STATUS, FLUX_STREAM
from flux_contract.modes import BY_NAME

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_T = TypeVar("_T")


class FluxClient:
    """Client for one server, or for several with load balancing. Thread-safe.

    url: host:port; the default is localhost and the protocol's usual port. With a name that has several addresses,
    such as that of a headless Service, or with `host:port,host:port`, each gRPC call goes to a server with little load;
    while the client is in use, a daemon thread reads the load once a second. timeout_s: seconds for one call, retries
    included. retry: the default is `RetryPolicy()`, or `FAIL_OVER` for a list of servers; set `FAIL_OVER` for a name
    with several addresses, too. transport: replaces the connection, for example by
    `flux_client.fake.FakeTransport()`. clock, sleep: for tests.

    Raises ValueError: unknown protocol, or url is not host:port. Raises NotConnected: no name in a list resolves.

        with FluxClient("localhost:8001") as client:
            for variation in client.redux("cat.png", num_images=4):
                variation.save(f"cat-{variation.seed}.png")
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        protocol: ProtocolName = "grpc",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport or open_transport(protocol, url)
        self._timeout_s = timeout_s
        self._retry = retry or usual_policy(url)
        self._clock = clock
        self._sleep = sleep

    def redux(
        self,
        images: ImageInputs,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[ReduxOptions],
    ) -> list[ImageResult]:
        """Generate variations of one image, or of a blend of several.

        images: a path, encoded bytes, a PIL image or a uint8 array (height, width[, 3 or 4]); or a list of up to 8.
        timeout_s: seconds for this call, retries included. request_id: identifies the request in the server's log.
        options: those of `flux_client.ReduxOptions`, such as prompt, similarity and seed. The server uses its default
        for an option that is omitted or None.

        Raises InvalidRequest, Overloaded, DeadlineExceeded, Cancelled, Unreachable or GenerationFailed.
        Raises TypeError: a value is not an image, or an unknown option. Raises OSError: an image file cannot be read.
        """
        return self._make("redux", {"images": images, **options}, timeout_s, request_id)

    def img2img(
        self,
        images: ImageInputs,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Img2ImgOptions],
    ) -> list[ImageResult]:
        """Change an image. `strength` sets how much.

        images: as in `redux`; the first one is changed. All of them are also Redux images with the weight
        `image_strength`: with `image_strength=0`, only the prompt guides the change, as in diffusers'
        FluxImg2ImgPipeline. options: those of `flux_client.Img2ImgOptions`. Unless height and width are set, the result
        has the checkpoint's native size, not the size of the image.

        Other arguments and errors are those of `redux`.
        """
        return self._make("img2img", {"images": images, **options}, timeout_s, request_id)

    def text2img(
        self,
        prompt: str,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Text2ImgOptions],
    ) -> list[ImageResult]:
        """Generate images from a prompt. Requires a base checkpoint with text encoders.

        options: those of `flux_client.Text2ImgOptions`. Other arguments and errors are those of `redux`.
        """
        return self._make("text2img", {"prompt": prompt, **options}, timeout_s, request_id)

    def inpaint(
        self,
        source_image: ImageInput,
        mask_image: ImageInput,
        *,
        images: ImageInputs | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[InpaintOptions],
    ) -> list[ImageResult]:
        """Change the masked part of an image, guided by a prompt and Redux images.

        mask_image: of the same size as source_image, white where the image is changed. Pixels outside the mask are
        returned unchanged. images: Redux images. options: those of `flux_client.InpaintOptions`.

        Other arguments and errors are those of `redux`.
        """
        arguments = {"source_image": source_image, "mask_image": mask_image, "images": images, **options}
        return self._make("inpaint", arguments, timeout_s, request_id)

    def canny(
        self,
        control_image: ImageInput,
        *,
        images: ImageInputs | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[CannyOptions],
    ) -> list[ImageResult]:
        """Generate images that follow the edges of an image, guided by a prompt and Redux images.

        control_image: an image whose edges are detected, or with `control_kind="edges"` an edge map. `edges` returns
        the edge map that is used. images: Redux images. options: those of `flux_client.CannyOptions`.

        Other arguments and errors are those of `redux`.
        """
        arguments = {"control_image": control_image, "images": images, **options}
        return self._make("canny", arguments, timeout_s, request_id)

    def edges(
        self,
        control_image: ImageInput,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[EdgesOptions],
    ) -> Image.Image:
        """Return the edge map that `canny` would use: white on black, in the size of the generated image.

        options: those of `flux_client.EdgesOptions`. Other arguments and errors are those of `redux`.
        """
        request = partial(edges_request, {"control_image": control_image, **options})
        return read_edges(self._ask(request, timeout_s, request_id))

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
    ) -> Stream:
        """Stream the images of another method: `Progress` events, then one `ImageResult` for each image.

        mode: the name of the method, whose arguments are passed by keyword. preview_steps: number of steps between two
        previews; 0, the default, disables them. preview_method: `latent2rgb` (fast, an eighth of the size) or `vae`.
        timeout_s: seconds from this call to the last event, retries included. After the first event there is no retry,
        except with a policy that restarts, such as `FAIL_OVER`. traceparent: W3C trace context header of the request.
        Other arguments are those of `redux`.

            with client.stream("cat.png", num_images=2, preview_steps=5) as stream:
                for event in stream:
                    if isinstance(event, ImageResult):
                        event.save(f"cat-{event.seed}.png")
                    else:
                        print(f"image {event.image}: step {event.step} of {event.steps}")

            client.stream("cat.png", mode="img2img", strength=0.5)
            client.stream(mode="text2img", prompt="a cat")
            client.stream(mode="canny", control_image="house.jpg", prompt="a castle", images="style.png")

        This method sends the request before it returns. To cancel the request on the server, call `stream.cancel()`
        from any thread, leave the block, or delete the stream.

        Raises InvalidRequest: a value is invalid, or the protocol is HTTP, which does not support streams.
        Raises TypeError: a value is not an image, the mode has no such option, or a required argument is missing.
        Raises OSError as `redux`. Iteration raises the other errors.
        """
        budget = self._budget(self._retry, timeout_s)
        arguments = {**options, "preview_steps": preview_steps, "preview_method": preview_method}
        request = stream_request(mode, images, arguments, traceparent)
        name, transport = request_id or uuid.uuid4().hex, self._transport
        return Stream(lambda left_s: transport.stream(request, left_s, name), budget, self._sleep)

    def wait_until_ready(
        self, timeout_s: float | None = None, *, on_wait: Callable[[FluxError], object] | None = None
    ) -> None:
        """Return when the server and its model flux_redux accept requests.

        on_wait: called after each check that fails, with the reason.
        Raises DeadlineExceeded: they are not ready within timeout_s seconds; the message has the last reason.
        """
        budget = self._budget(UNTIL_READY, timeout_s)
        try:
            self._persist(budget, lambda: self._check_ready(min(budget.left_s(), PROBE_S)), on_wait)
        except UNTIL_READY.retried as error:
            raise gave_up(error) from error

    def ready_modes(self, timeout_s: float = PROBE_S) -> list[ModeName]:
        """Return the modes that accept requests and streams now. Does not retry.

        timeout_s: seconds for each readiness check. Raises Unreachable, DeadlineExceeded: the server does not respond.
        """
        if not self._transport.is_ready(FLUX_STREAM.name, timeout_s):
            return []
        return [mode for mode in get_args(ModeName) if self._transport.is_ready(BY_NAME[mode].ensemble.name, timeout_s)]

    def instances(self, timeout_s: float = PROBE_S) -> list[InstanceLoad]:
        """Return the load of each running instance of `flux_base`, by name; empty if the server does not report it.

        Does not retry. If there are several servers, queries one of them. timeout_s: seconds for each of two requests.
        Raises Unreachable, DeadlineExceeded: the server does not respond.
        """
        if not self._transport.is_ready(FLUX_STATUS.name, timeout_s):
            return []
        return read_instances(self._transport.infer(load_request(), timeout_s, uuid.uuid4().hex))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(
        self, mode: ModeName, arguments: Mapping[str, Any], timeout_s: float | None, request_id: str | None
    ) -> list[ImageResult]:
        request = partial(call_request, mode, arguments)
        return read_results(self._ask(request, timeout_s, request_id), BY_NAME[mode].ensemble.name)

    def _ask(self, prepare: Callable[[], Request], timeout_s: float | None, request_id: str | None) -> Answer:
        """Send a request. prepare: builds it, within the timeout."""
        budget = self._budget(self._retry, timeout_s)
        request = prepare()
        name = request_id or uuid.uuid4().hex
        return self._persist(budget, lambda: self._transport.infer(request, budget.left_s(), name))

    def _budget(self, policy: RetryPolicy, timeout_s: float | None) -> RetryBudget:
        return RetryBudget(policy, self._timeout_s if timeout_s is None else timeout_s, self._clock)

    def _check_ready(self, timeout_s: float) -> None:
        if not self._transport.is_ready(FLUX_REDUX.name, timeout_s):
            raise not_ready()

    def _persist(
        self, budget: RetryBudget, call: Callable[[], _T], on_wait: Callable[[FluxError], object] | None = None
    ) -> _T:
        while True:
            try:
                return call()
            except FluxError as error:
                pause_s = budget.pause_after(error)
                if on_wait is not None:
                    on_wait(error)
            self._sleep(pause_s)
