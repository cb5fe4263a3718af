"""The synchronous client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from PIL import Image

from flux_client.edges import read_edges
from flux_client.instance_load import InstanceLoad, load_request, read_instances
from flux_client.knobs import (
    CannyKnobs,
    EdgePictureKnobs,
    Img2ImgKnobs,
    ModeName,
    ReduxKnobs,
    StreamKnobs,
    Text2ImgKnobs,
)
from flux_client.opening import ProtocolName, open_transport, usual_policy
from flux_client.pictures import Picture, Pictures
from flux_client.readiness import PROBE_S, UNTIL_READY, gave_up, not_ready
from flux_client.request import Request, call_request, edges_request, stream_request
from flux_client.retry import DEFAULT_TIMEOUT_S, RetryBudget, RetryPolicy
from flux_client.stream import Stream
from flux_client.transport import Answer, Transport
from flux_client.variation import Variation, read_variations
from flux_contract.errors import FluxError
from flux_contract.models import BY_MODE, FLUX_REDUX, FLUX_STATUS, FLUX_STREAM

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_T = TypeVar("_T")


class FluxClient:
    """Calls one server, or several by their load. Threads may share a client.

    url: host:port, by default the protocol's usual one on this machine. Of a name that stands for several addresses,
    such as that of a headless Service, and of `host:port,host:port`, each call goes to a server with little work
    (gRPC), which a daemon thread reads once a second while the client is used. timeout_s: seconds for one call
    with all its retries. retry: by default `RetryPolicy()`; with a list of servers `FAIL_OVER`, which is right for
    a name of several, too. transport: another way to the server, such as `flux_client.fake.FakeTransport()`. clock and
    sleep are for tests.

    Raises ValueError: unknown protocol, or url is not host:port. Raises NotConnected: no name of a list resolves.

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
        images: Pictures,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[ReduxKnobs],
    ) -> list[Variation]:
        """Variations of one picture, or of several blended into one.

        images: a path, encoded bytes, a PIL image or a uint8 array (height, width[, 3 or 4]); or a list of up to 8.
        timeout_s: seconds for this call with all its retries. request_id: names the call in the server's log.
        knobs: prompt, strength, num_inference_steps, guidance_scale, num_images, seed and the others of
        `flux_client.ReduxKnobs`; what is left out or None is the server's default.

        Raises InvalidRequest, Overloaded, DeadlineExceeded, Cancelled, Unreachable or GenerationFailed.
        Raises TypeError: not a picture, or an unknown knob. Raises OSError: a picture's file cannot be read.
        """
        return self._make("redux", {"images": images, **knobs}, timeout_s, request_id)

    def img2img(
        self,
        images: Pictures,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[Img2ImgKnobs],
    ) -> list[Variation]:
        """A picture changed: it begins as itself under noise, steered by pictures and a prompt.

        images: as in `redux`. images[0] is the one to change; every one given also steers by its `image_strength`
        (default 1), itself too: `image_strength=0` leaves the change to the prompt, as diffusers'
        FluxImg2ImgPipeline.
        knobs: those of `flux_client.Img2ImgKnobs`. `strength`, 0.7 by default, is how much is to change: 0 gives the
        picture back, 1 draws from noise alone. The size is the checkpoint's own unless height and width say another,
        and `fit` (cover, contain, stretch) says what becomes of a picture of another shape.

        The rest, and what is raised, is as in `redux`.
        """
        return self._make("img2img", {"images": images, **knobs}, timeout_s, request_id)

    def text2img(
        self,
        prompt: str,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[Text2ImgKnobs],
    ) -> list[Variation]:
        """Pictures of a prompt alone; it needs a base checkpoint with text encoders.

        knobs: those of `flux_client.Text2ImgKnobs`. The rest, and what is raised, is as in `redux`.
        """
        return self._make("text2img", {"prompt": prompt, **knobs}, timeout_s, request_id)

    def canny(
        self,
        control_image: Picture,
        *,
        images: Pictures | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[CannyKnobs],
    ) -> list[Variation]:
        """Pictures that follow the edges of one, steered by pictures and a prompt.

        control_image: a picture whose edges are looked for, or with `control_kind="edges"` a map of them; `edges`
        shows what is followed. images: those that steer, as in `redux`. knobs: those of `flux_client.CannyKnobs`.

        The rest, and what is raised, is as in `redux`.
        """
        arguments = {"control_image": control_image, "images": images, **knobs}
        return self._make("canny", arguments, timeout_s, request_id)

    def edges(
        self,
        control_image: Picture,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[EdgePictureKnobs],
    ) -> Image.Image:
        """The edges that `canny` would follow, white on black, at the size asked for.

        knobs: height, width, control_kind, canny_low, canny_high and fit, as `canny` takes them.
        The rest, and what is raised, is as in `redux`.
        """
        request = partial(edges_request, {"control_image": control_image, **knobs})
        return read_edges(self._ask(request, timeout_s, request_id))

    def stream(
        self,
        images: Pictures | None = None,
        *,
        mode: ModeName = "redux",
        preview_steps: int | None = None,
        preview_method: str | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **knobs: Unpack[StreamKnobs],
    ) -> Stream:
        """The pictures that another call makes, with their progress: `Progress` events, then one `Variation` for each.

        mode: which call; its arguments go along by name, and mean what they mean there.
        preview_steps: a preview after every so many steps, but not after the last, 0..100; 0, the default, is none.
        preview_method: latent2rgb (quick, an eighth of the size) or vae. timeout_s: seconds from this call to the last
        event, with all retries; the server is asked again only while no event was there.
        traceparent: W3C's header of the trace that the request belongs to. The rest is as in `redux`.

            with client.stream("cat.png", num_images=2, preview_steps=5) as stream:
                for event in stream:
                    if isinstance(event, Variation):
                        event.save(f"cat-{event.seed}.png")
                    else:
                        print(f"image {event.image}: step {event.step} of {event.steps}")

            client.stream("cat.png", mode="img2img", strength=0.5)
            client.stream(mode="text2img", prompt="a cat")
            client.stream(mode="canny", control_image="house.jpg", prompt="a castle", images="style.png")

        The request is on its way when this returns. Leaving the block, `stream.cancel()` from any thread, and dropping
        the stream end the work at the server.

        Raises InvalidRequest: a value breaks the contract, or the protocol is HTTP, which has no streams.
        Raises TypeError: not a picture, a knob that the mode has not, or an argument that it needs is missing.
        Raises OSError as `redux`. The other errors are raised by iterating.
        """
        budget = self._budget(self._retry, timeout_s)
        arguments = {**knobs, "preview_steps": preview_steps, "preview_method": preview_method}
        request = stream_request(mode, images, arguments, traceparent)
        name, transport = request_id or uuid.uuid4().hex, self._transport
        return Stream(lambda left_s: transport.stream(request, left_s, name), budget, self._sleep)

    def wait_until_ready(self, timeout_s: float | None = None) -> None:
        """Return when the server and its model flux_redux take requests.

        Raises DeadlineExceeded: they do not within timeout_s seconds; the message tells what stood in the way.
        """
        budget = self._budget(UNTIL_READY, timeout_s)
        try:
            self._persist(budget, lambda: self._check_ready(min(budget.left_s(), PROBE_S)))
        except UNTIL_READY.retried as error:
            raise gave_up(error) from error

    def ready_modes(self, timeout_s: float = PROBE_S) -> list[ModeName]:
        """The modes whose ensemble takes requests now, and which `stream` serves too. One look, not repeated.

        Raises Unreachable, DeadlineExceeded: the server does not answer within timeout_s seconds for each mode.
        """
        if not self._transport.is_ready(FLUX_STREAM.name, timeout_s):
            return []
        return [mode for mode in get_args(ModeName) if self._transport.is_ready(BY_MODE[mode].name, timeout_s)]

    def instances(self, timeout_s: float = PROBE_S) -> list[InstanceLoad]:
        """The work that each living instance of `flux_base` has left, by name.

        Empty if the server does not report it. Asks once; of several servers, one of them.

        Raises Unreachable, DeadlineExceeded: the server does not answer, twice within timeout_s seconds.
        """
        if not self._transport.is_ready(FLUX_STATUS.name, timeout_s):
            return []
        return read_instances(self._transport.infer(load_request(), timeout_s, uuid.uuid4().hex))

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(
        self, mode: ModeName, arguments: Mapping[str, Any], timeout_s: float | None, request_id: str | None
    ) -> list[Variation]:
        request = partial(call_request, mode, arguments)
        return read_variations(self._ask(request, timeout_s, request_id), BY_MODE[mode].name)

    def _ask(self, prepare: Callable[[], Request], timeout_s: float | None, request_id: str | None) -> Answer:
        """prepare: makes the request; its time counts."""
        budget = self._budget(self._retry, timeout_s)
        request = prepare()
        name = request_id or uuid.uuid4().hex
        return self._persist(budget, lambda: self._transport.infer(request, budget.left_s(), name))

    def _budget(self, policy: RetryPolicy, timeout_s: float | None) -> RetryBudget:
        return RetryBudget(policy, self._timeout_s if timeout_s is None else timeout_s, self._clock)

    def _check_ready(self, timeout_s: float) -> None:
        if not self._transport.is_ready(FLUX_REDUX.name, timeout_s):
            raise not_ready()

    def _persist(self, budget: RetryBudget, call: Callable[[], _T]) -> _T:
        while True:
            try:
                return call()
            except FluxError as error:
                pause_s = budget.pause_after(error)
            self._sleep(pause_s)
