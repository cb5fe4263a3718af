"""A server that is not there, for tests of code that calls `flux_client`.

    client = FluxClient(transport=FakeTransport())

It holds requests to the contract as the server does and answers with real little pictures that depend on seed and
pictures alone. A live test compares it with the real server.
"""

from __future__ import annotations

import base64
import binascii
import random
import zlib
from collections import deque
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from flux_client.request import Array, Request
from flux_client.transport import Answer
from flux_serving.contract import limits
from flux_serving.contract.models import (
    FLUX_REDUX,
    HEIGHT,
    IMAGE,
    NUM_IMAGES,
    OUTPUT_FORMAT,
    OUTPUT_IMAGE,
    OUTPUT_SEED,
    SEED,
    WIDTH,
)
from flux_serving.contract.tensors import Tensor
from flux_serving.errors import FluxError, InvalidRequest

#: Pixels of a side that the request leaves to the checkpoint.
DEFAULT_SIDE = 64


@dataclass(frozen=True)
class Sent:
    """What a fake was asked."""

    request: Request
    timeout_s: float
    request_id: str


class FakeTransport:
    """errors: raised in this order by the first calls of `infer`, one each. ready: what `is_ready` answers."""

    def __init__(self, *errors: FluxError, ready: bool = True) -> None:
        self.sent: list[Sent] = []
        self.ready = ready
        self.closed = False
        self._errors = deque(errors)

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        self.sent.append(Sent(request, timeout_s, request_id))
        if self._errors:
            raise self._errors.popleft()
        return answer(request)

    def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.ready and model == FLUX_REDUX.name

    def close(self) -> None:
        self.closed = True


class AsyncFakeTransport:
    """`FakeTransport` with an await. `fake` is the one inside: what was sent, and whether it is closed."""

    def __init__(self, *errors: FluxError, ready: bool = True) -> None:
        self.fake = FakeTransport(*errors, ready=ready)

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        return self.fake.infer(request, timeout_s, request_id)

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.fake.is_ready(model, timeout_s)

    async def close(self) -> None:
        self.fake.close()


def answer(request: Request) -> Answer:
    """What the server would answer, but for the picture's content. Raises InvalidRequest: the contract is broken."""
    inputs = _checked(request)
    height, width = (int(inputs.get(side.name, [DEFAULT_SIDE])[0]) for side in (HEIGHT, WIDTH))
    image_format = _text(inputs, OUTPUT_FORMAT, limits.DEFAULT_FORMAT)
    if image_format not in limits.FORMATS:
        raise InvalidRequest(
            f"{request.model}: {OUTPUT_FORMAT.name}={image_format!r}, expected one of: {limits.FORMATS}"
        )
    first = int(inputs.get(SEED.name, [limits.DEFAULT_SEED])[0])
    if first == limits.RANDOM_SEED:
        first = random.randrange(2**32)
    pictures = zlib.crc32(b"".join(inputs[IMAGE.name]))
    seeds = [first + index for index in range(int(inputs.get(NUM_IMAGES.name, [limits.DEFAULT_IMAGES])[0]))]
    images = np.empty((1, len(seeds)), dtype=np.object_)
    images[0, :] = [_picture(seed, pictures, (width, height), image_format) for seed in seeds]
    return {OUTPUT_IMAGE.name: images, OUTPUT_SEED.name: np.array([seeds], dtype=np.int64)}


def _checked(request: Request) -> dict[str, Array]:
    """Inputs without the batch dimension."""
    if request.model != FLUX_REDUX.name:
        raise InvalidRequest(f"Request for unknown model: '{request.model}' is not found")
    known = {tensor.name: tensor for tensor in FLUX_REDUX.inputs}
    for name in request.inputs:
        if name not in known:
            raise InvalidRequest(f"{request.model}: unexpected input {name}")
    for tensor in known.values():
        if tensor.name in request.inputs:
            _check(request.model, tensor, request.inputs[tensor.name])
        elif not tensor.optional:
            raise InvalidRequest(f"{request.model}: {tensor.name} is missing")
    inputs = {name: array[0] for name, array in request.inputs.items()}
    for data in inputs[IMAGE.name]:
        _check_picture(request.model, data)
    return inputs


def _check(model: str, tensor: Tensor, array: Array) -> None:
    if array.dtype != tensor.dtype.numpy_type:
        raise InvalidRequest(f"{model}: {tensor.name} has type {array.dtype}, expected {tensor.dtype.wire_name}")
    if array.ndim == 0 or array.shape[0] != 1:
        raise InvalidRequest(
            f"{model}: {tensor.name} has shape {list(array.shape)}, expected [1, {list(tensor.shape)}]"
        )
    tensor.check(model, array[0])
    if tensor in (HEIGHT, WIDTH) and array.item() % limits.SIDE_MULTIPLE:
        raise InvalidRequest(f"{model}: {tensor.name}={array.item()}, expected a multiple of {limits.SIDE_MULTIPLE}")


def _check_picture(model: str, data: bytes) -> None:
    try:
        Image.open(BytesIO(data)).close()
    except UnidentifiedImageError:
        try:
            Image.open(BytesIO(base64.b64decode(data.rpartition(b",")[2], validate=True))).close()
        except (UnidentifiedImageError, binascii.Error):
            raise InvalidRequest(f"{model}: {IMAGE.name} is no picture") from None


def _text(inputs: dict[str, Array], tensor: Tensor, default: str) -> str:
    value = inputs[tensor.name][0] if tensor.name in inputs else default
    return value.decode() if isinstance(value, bytes) else str(value)


def _picture(seed: int, pictures: int, size: tuple[int, int], image_format: str) -> bytes:
    patches = np.random.default_rng([seed, pictures]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(patches).resize(size).save(buffer, format=image_format)
    return buffer.getvalue()
