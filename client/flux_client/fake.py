"""A server that is not there, for tests of code that calls `flux_client`.

    client = FluxClient(transport=FakeTransport())

It holds each tensor to the contract as the server does, but not tensors to each other (a mask to its picture, an end to
its start), and answers with real little pictures that depend on seed and pictures alone. A live test compares it with
the real server.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from flux_client.request import Array, Request
from flux_client.transport import Answer
from flux_serving.contract import limits
from flux_serving.contract.knobs import (
    HEIGHT,
    IMAGE,
    NUM_IMAGES,
    NUM_INFERENCE_STEPS,
    OUTPUT_FORMAT,
    PREVIEW_STEPS,
    SEED,
    WIDTH,
)
from flux_serving.contract.models import (
    FLUX_REDUX,
    FLUX_STREAM,
    OUTPUT_IMAGE,
    OUTPUT_SEED,
    PREVIEW,
    PROGRESS,
    Ensemble,
    Model,
)
from flux_serving.contract.tensors import Tensor
from flux_serving.errors import Cancelled, FluxError, InvalidRequest

#: Pixels of a side that the request leaves to the checkpoint.
DEFAULT_SIDE = 64


@dataclass(frozen=True)
class Sent:
    """What a fake was asked."""

    request: Request
    timeout_s: float
    request_id: str


class FakeAnswers:
    """A stream of a fake: what it has still to tell, or its error, and whether it is `cancelled`."""

    def __init__(self, answers: Iterator[Answer], error: FluxError | None = None) -> None:
        self.cancelled = False
        self._answers = answers
        self._error = error

    def __next__(self) -> Answer:
        if self.cancelled:
            raise Cancelled("the call was cancelled")
        if self._error is not None:
            raise self._error
        return next(self._answers)

    def cancel(self) -> None:
        self.cancelled = True


class AsyncFakeAnswers:
    """`FakeAnswers` with an await, at which other tasks may run."""

    def __init__(self, fake: FakeAnswers) -> None:
        self.fake = fake

    async def __anext__(self) -> Answer:
        await asyncio.sleep(0)
        try:
            return next(self.fake)
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self) -> None:
        self.fake.cancel()


class FakeTransport:
    """errors: raised in this order by the first calls, one each: of `infer`, or of a stream before its first answer.

    ready: what `is_ready` answers. `streams` are those opened, in order.
    """

    def __init__(self, *errors: FluxError, ready: bool = True) -> None:
        self.sent: list[Sent] = []
        self.streams: list[FakeAnswers] = []
        self.ready = ready
        self.closed = False
        self._errors = deque(errors)

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        self.sent.append(Sent(request, timeout_s, request_id))
        if self._errors:
            raise self._errors.popleft()
        return answer(request)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> FakeAnswers:
        self.sent.append(Sent(request, timeout_s, request_id))
        error = self._errors.popleft() if self._errors else None
        self.streams.append(FakeAnswers(stream_answers(request), error))
        return self.streams[-1]

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

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncFakeAnswers:
        return AsyncFakeAnswers(self.fake.stream(request, timeout_s, request_id))

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.fake.is_ready(model, timeout_s)

    async def close(self) -> None:
        self.fake.close()


def answer(request: Request) -> Answer:
    """What flux_redux would answer, but for the picture's content. Raises InvalidRequest: the contract is broken."""
    return _pictures(request.model, _checked(request, FLUX_REDUX))


def stream_answers(request: Request) -> Iterator[Answer]:
    """What flux_stream would answer: all images take each step together. Raises as `answer`, at the first of them."""
    inputs = _checked(request, FLUX_STREAM)
    final = _pictures(request.model, inputs)
    steps = _number(inputs, NUM_INFERENCE_STEPS)
    preview_steps = _number(inputs, PREVIEW_STEPS)
    for step in range(steps + 1):
        for image, seed in enumerate(final[OUTPUT_SEED.name][0].tolist()):
            progress: dict[str, Array] = {PROGRESS.name: np.array([[image, step, steps]], dtype=np.int32)}
            if 0 < step < steps and preview_steps and step % preview_steps == 0:
                progress[PREVIEW.name] = np.array([[_picture(seed, step, (8, 8), "jpeg")]], dtype=np.object_)
            yield progress
    yield final


def _pictures(model: str, inputs: Mapping[str, Array]) -> Answer:
    height, width = (int(inputs.get(side.name, [DEFAULT_SIDE])[0]) for side in (HEIGHT, WIDTH))
    image_format = _choice(model, inputs, OUTPUT_FORMAT, limits.FORMATS)
    first = _number(inputs, SEED)
    if first == limits.RANDOM_SEED:
        first = random.randrange(2**32)
    pictures = zlib.crc32(b"".join(inputs[IMAGE.name]))
    seeds = [first + index for index in range(_number(inputs, NUM_IMAGES))]
    images = np.empty((1, len(seeds)), dtype=np.object_)
    images[0, :] = [_picture(seed, pictures, (width, height), image_format) for seed in seeds]
    return {OUTPUT_IMAGE.name: images, OUTPUT_SEED.name: np.array([seeds], dtype=np.int64)}


def _checked(request: Request, model: Ensemble | Model) -> dict[str, Array]:
    """Inputs without the batch dimension."""
    if request.model != model.name:
        raise InvalidRequest(f"Request for unknown model: '{request.model}' is not found")
    known = {tensor.name: tensor for tensor in model.inputs}
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


def _number(inputs: Mapping[str, Array], tensor: Tensor) -> int:
    return int(inputs.get(tensor.name, np.array([tensor.default]))[0])


def _choice(model: str, inputs: Mapping[str, Array], tensor: Tensor, choices: tuple[str, ...]) -> str:
    value = inputs.get(tensor.name, np.array([tensor.default]))[0]
    text = value.decode() if isinstance(value, bytes) else str(value)
    if text not in choices:
        raise InvalidRequest(f"{model}: {tensor.name}={text!r}, expected one of: {', '.join(choices)}")
    return text


def _picture(seed: int, pictures: int, size: tuple[int, int], image_format: str) -> bytes:
    patches = np.random.default_rng([seed, pictures]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(patches).resize(size).save(buffer, format=image_format)
    return buffer.getvalue()
