"""The synchronous client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from flux_client.opening import ProtocolName, open_transport
from flux_client.pictures import Pictures
from flux_client.readiness import PROBE_S, UNTIL_READY, gave_up, not_ready
from flux_client.request import Knobs, redux_request, stream_request
from flux_client.retry import DEFAULT_TIMEOUT_S, Patience, RetryPolicy
from flux_client.stream import Stream
from flux_client.transport import Transport
from flux_client.variation import Variation, read_variations
from flux_serving.contract.models import FLUX_REDUX
from flux_serving.errors import FluxError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_T = TypeVar("_T")


class FluxClient:
    """Calls one server. Threads may share a client.

    url: host:port, by default the protocol's usual one on this machine. timeout_s: seconds for one call with all its
    retries. transport: another way to the server, such as `flux_client.fake.FakeTransport()`. clock and sleep are for
    tests. Raises ValueError: unknown protocol, or url is not host:port.

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
        self._retry = retry or RetryPolicy()
        self._clock = clock
        self._sleep = sleep

    def redux(
        self,
        images: Pictures,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[Knobs],
    ) -> list[Variation]:
        """Variations of one picture, or of several blended into one.

        images: a path, encoded bytes, a PIL image or a uint8 array (height, width[, 3 or 4]); or a list of up to 8.
        timeout_s: seconds for this call with all its retries. request_id: names the call in the server's log.
        knobs: prompt, image_strength, height, width, num_inference_steps, guidance_scale, num_images, seed,
        output_format, priority, as `flux_client.Knobs` says; what is left out or None is the server's default.

        Raises InvalidRequest, Overloaded, DeadlineExceeded, Cancelled, Unreachable or GenerationFailed.
        Raises TypeError: not a picture, or an unknown knob. Raises OSError: a picture's file cannot be read.
        """
        patience = self._patience(self._retry, timeout_s)
        request = redux_request(images, knobs)
        name = request_id or uuid.uuid4().hex
        return read_variations(self._persist(patience, lambda: self._transport.infer(request, patience.left_s(), name)))

    def stream(
        self,
        images: Pictures,
        *,
        preview_steps: int | None = None,
        preview_method: str | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **knobs: Unpack[Knobs],
    ) -> Stream:
        """The same pictures as `redux` makes, with their progress: `Progress` events, then one `Variation` for each.

        preview_steps: a preview after every so many steps, but not after the last, 0..100; 0, the default, is none.
        preview_method: latent2rgb (quick, an eighth of the size) or vae. timeout_s: seconds from this call to the last
        event, with all retries; the server is asked again only while no event was there. The rest is as in `redux`.

            with client.stream("cat.png", num_images=2, preview_steps=5) as stream:
                for event in stream:
                    if isinstance(event, Variation):
                        event.save(f"cat-{event.seed}.png")
                    else:
                        print(f"image {event.image}: step {event.step} of {event.steps}")

        The request is on its way when this returns. Leaving the block, `stream.cancel()` from any thread, and dropping
        the stream end the work at the server.

        Raises InvalidRequest: a value breaks the contract, or the protocol is HTTP, which has no streams.
        Raises TypeError and OSError as `redux`. The other errors are raised by iterating.
        """
        patience = self._patience(self._retry, timeout_s)
        settings = {**knobs, "preview_steps": preview_steps, "preview_method": preview_method}
        request = stream_request(images, settings)
        name, transport = request_id or uuid.uuid4().hex, self._transport
        return Stream(lambda left_s: transport.stream(request, left_s, name), patience, self._sleep)

    def wait_until_ready(self, timeout_s: float | None = None) -> None:
        """Return when the server and its model flux_redux take requests.

        Raises DeadlineExceeded: they do not within timeout_s seconds; the message tells what stood in the way.
        """
        patience = self._patience(UNTIL_READY, timeout_s)
        try:
            self._persist(patience, lambda: self._check_ready(min(patience.left_s(), PROBE_S)))
        except UNTIL_READY.retried as error:
            raise gave_up(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _patience(self, policy: RetryPolicy, timeout_s: float | None) -> Patience:
        return Patience(policy, self._timeout_s if timeout_s is None else timeout_s, self._clock)

    def _check_ready(self, timeout_s: float) -> None:
        if not self._transport.is_ready(FLUX_REDUX.name, timeout_s):
            raise not_ready()

    def _persist(self, patience: Patience, call: Callable[[], _T]) -> _T:
        while True:
            try:
                return call()
            except FluxError as error:
                pause_s = patience.pause_after(error)
            self._sleep(pause_s)
