"""Mixed load: callers of every mode over gRPC, HTTP and REST, some of which cancel or disconnect.

    load = MixedLoad(server.grpc_url, server.http_url, gateway.url)
    outcomes = load.run(seconds=15)

On its own, against a server that runs:

    python tests/live/mixed_load.py --seconds 60 --rest http://127.0.0.1:12411
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
from PIL import ExifTags, Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flux_client import DeadlineExceeded, FluxClient, FluxError, ImageResult, ModeName, RetryPolicy
from flux_contract.modes import BY_NAME
from images import drawn_image, encoded

MODES: tuple[ModeName, ...] = get_args(ModeName)
#: Images that the requests draw from.
IMAGES = 16
#: Seconds after which a call without a response counts as hung.
PATIENCE_S = 60.0
#: Seconds between a failed request and the next one of the same caller.
PAUSE_S = 0.2
#: Sides of the requested images, in pixels.
SIDES = (64, 96, 128)


@dataclass(frozen=True)
class Mix:
    """The number of callers of each kind, and how often they leave early."""

    grpc: int = 4
    http: int = 4
    streams: int = 3
    rest: int = 4
    #: Probability, at each event, that a stream is cancelled by its client.
    cancel: float = 0.05
    #: Probability, at each event, that the connection of a stream is closed.
    leave: float = 0.05
    #: Probability that a gRPC call of an ensemble is abandoned after `patience_s`.
    grpc_leave: float = 0.0
    #: The same for an HTTP call.
    http_leave: float = 0.0
    #: Probability that a REST caller disconnects after `patience_s`.
    rest_leave: float = 0.2
    patience_s: float = 0.4
    #: Maximum number of steps of an image.
    max_steps: int = 20


class MixedLoad:
    """Callers, each a thread with its own connection. Each request has its own seed, which its image's recipe names.

    outcomes: by kind of caller and outcome, such as `("stream", "cancelled")`. `right` is the expected image, `wrong`
    another one, `left` a request whose caller disconnected. Every other outcome is the name of an error class.
    """

    def __init__(self, grpc_url: str, http_url: str, rest_url: str, mix: Mix | None = None, seed: int = 1) -> None:
        """grpc_url, http_url: host:port of Triton. rest_url: of the gateway."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        #: The last message of each outcome that is an error.
        self.messages: dict[tuple[str, str], str] = {}
        self.mix = mix or Mix()
        self._grpc_url = grpc_url
        self._http_url = http_url
        self._rest_url = rest_url
        self._seed = seed
        self._seeds = iter(range(1 + 10**6 * seed, 10**6 * (seed + 1)))
        self._images = [encoded(drawn_image(number)) for number in range(IMAGES)]
        self._mask = encoded(Image.linear_gradient("L").resize(drawn_image(0).size))
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self, seconds: float) -> Counter[tuple[str, str]]:
        """Send requests for this time, or until `stop`. Returns the outcomes once every caller has ended."""
        mix = self.mix
        callers: list[Callable[[random.Random], None]] = [
            *[self._call_grpc] * mix.grpc,
            *[self._call_http] * mix.http,
            *[self._stream] * mix.streams,
            *[self._call_rest] * mix.rest,
        ]
        timer = threading.Timer(seconds, self._stopped.set)
        timer.start()
        try:
            with ThreadPoolExecutor(len(callers)) as pool:
                for number, caller in enumerate(callers):
                    pool.submit(caller, random.Random(1000 * self._seed + number)).add_done_callback(self._ended)
        finally:
            timer.cancel()
        return self.outcomes

    def stop(self) -> None:
        """Send no further request. Any thread may call it."""
        self._stopped.set()

    def count(self, outcome: str) -> int:
        """Returns the number of requests of all kinds with this outcome."""
        return sum(number for (_, found), number in self.outcomes.items() if found == outcome)

    def _call_grpc(self, rng: random.Random) -> None:
        self._call("grpc", rng)

    def _call_http(self, rng: random.Random) -> None:
        self._call("http", rng)

    def _call(self, protocol: Any, rng: random.Random) -> None:
        url = self._grpc_url if protocol == "grpc" else self._http_url
        leaves = self.mix.grpc_leave if protocol == "grpc" else self.mix.http_leave
        with FluxClient(url, protocol=protocol, retry=RetryPolicy(attempts=1)) as client:
            while not self._stopped.is_set():
                arguments, seed, mode = self._arguments(rng)
                is_short = rng.random() < leaves
                timeout_s = self.mix.patience_s if is_short else PATIENCE_S
                ask: Any = partial(getattr(client, mode), timeout_s=timeout_s, **arguments)
                self._count(protocol, partial(self._checked, ask, seed), is_short)

    def _stream(self, rng: random.Random) -> None:
        while not self._stopped.is_set():
            with FluxClient(self._grpc_url, retry=RetryPolicy(attempts=1)) as client:
                self._count("stream", partial(self._streamed, client, rng))

    def _streamed(self, client: FluxClient, rng: random.Random) -> str:
        arguments, seed, mode = self._arguments(rng)
        previews: Any = {"preview_steps": rng.choice((0, 1, 3)), "preview_method": rng.choice(("latent2rgb", "vae"))}
        with client.stream(mode=mode, timeout_s=PATIENCE_S, **previews, **arguments) as events:
            for event in events:
                if isinstance(event, ImageResult):
                    return "right" if event.seed == seed else "wrong"
                chance = rng.random()
                if chance < self.mix.cancel:
                    return "cancelled"
                if chance < self.mix.cancel + self.mix.leave:
                    client.close()
                    return "left"
        return "no image"

    def _call_rest(self, rng: random.Random) -> None:
        while not self._stopped.is_set():
            is_short = rng.random() < self.mix.rest_leave
            timeout_s = self.mix.patience_s if is_short else PATIENCE_S
            with httpx.Client(base_url=self._rest_url, timeout=timeout_s) as http:
                self._count("rest", partial(self._posted, http, rng), is_short)

    def _posted(self, http: httpx.Client, rng: random.Random) -> str:
        arguments, seed, mode = self._arguments(rng)
        fields = {name: arguments[name] for name in ("height", "width", "num_inference_steps", "seed", "prompt")}
        names = {"images": "input_image", "source_image": "input_image"}
        fields_of_images = {
            names.get(name, name): base64.b64encode(value).decode()
            for name, value in arguments.items()
            if isinstance(value, bytes)
        }
        answer = http.post("/generate", json={"mode": BY_NAME[mode].genserve, **fields, **fields_of_images})
        if answer.status_code != 200:
            self._note("rest", str(answer.status_code), answer.text)
            time.sleep(PAUSE_S)
            return str(answer.status_code)
        image = Image.open(io.BytesIO(base64.b64decode(answer.json()["image_base64"])))
        return "right" if json.loads(image.getexif()[ExifTags.Base.ImageDescription])["seed"] == seed else "wrong"

    def _arguments(self, rng: random.Random) -> tuple[dict[str, Any], int, ModeName]:
        """Returns the keyword arguments of a call, its seed and its mode."""
        with self._lock:
            seed = next(self._seeds)
        mode = rng.choice(MODES)
        arguments: dict[str, Any] = {
            "height": rng.choice(SIDES),
            "width": rng.choice(SIDES),
            "num_inference_steps": rng.randint(2, self.mix.max_steps),
            "seed": seed,
            "prompt": rng.choice(("red apple", "blue car", "a green house", "")),
        }
        if mode == "text2img":
            arguments["prompt"] = arguments["prompt"] or "yellow sun"
        elif mode == "canny":
            arguments["control_image"] = rng.choice(self._images)
        elif mode == "inpaint":
            arguments |= {"source_image": rng.choice(self._images), "mask_image": self._mask}
        else:
            arguments["images"] = rng.choice(self._images)
        return arguments, seed, mode

    @staticmethod
    def _checked(ask: Callable[[], list[ImageResult]], seed: int) -> str:
        (variation,) = ask()
        return "right" if variation.seed == seed else "wrong"

    def _count(self, kind: str, ask: Callable[[], str], is_short: bool = False) -> None:
        """is_short: whether the caller leaves early, so that a timeout is no failure."""
        try:
            outcome = ask()
        except (FluxError, httpx.HTTPError) as error:
            is_timeout = isinstance(error, (DeadlineExceeded, httpx.TimeoutException))
            outcome = "left" if is_short and is_timeout else type(error).__name__
            self._note(kind, outcome, str(error))
            if outcome != "left":
                time.sleep(PAUSE_S)
        with self._lock:
            self.outcomes[kind, outcome] += 1

    def _note(self, kind: str, outcome: str, message: str) -> None:
        self.messages[kind, outcome] = message[:300]

    def _ended(self, caller: Any) -> None:
        """Run a caller. An exception here is a bug in this file."""
        if error := caller.exception():
            with self._lock:
                self.outcomes["caller", repr(error)] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grpc", default="127.0.0.1:8001", help="host:port; default: 127.0.0.1:8001")
    parser.add_argument("--http", default="127.0.0.1:8000", help="host:port; default: 127.0.0.1:8000")
    parser.add_argument("--rest", default="http://127.0.0.1:12411", help="default: http://127.0.0.1:12411")
    parser.add_argument("--seconds", type=float, default=60, help="default: 60")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--mix", type=json.loads, default={}, help='fields of Mix, as JSON, such as {"streams": 0}')
    given = parser.parse_args()
    load = MixedLoad(given.grpc, given.http, given.rest, replace(Mix(), **given.mix), given.seed)
    for (kind, outcome), count in sorted(load.run(given.seconds).items()):
        print(f"{kind:7} {outcome:20} {count:6}  {load.messages.get((kind, outcome), '')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
