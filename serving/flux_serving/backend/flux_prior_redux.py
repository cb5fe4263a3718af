"""`flux_prior_redux`: pictures and a prompt to weighted context tokens, many requests in one batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from flux_serving.backend.instance import Instance
from flux_serving.backend.wire import answer, error_response, full_message, read_inputs, read_text
from flux_serving.contract.knobs import (
    IMAGE,
    IMAGE_BLEND,
    IMAGE_MASK,
    PROMPT,
    PROMPT_END,
    PROMPT_START,
    PROMPT_STRENGTH,
)
from flux_serving.contract.limits import MAX_PICTURE_PIXELS
from flux_serving.contract.models import (
    CONTEXT,
    CONTEXT_SPANS,
    CONTEXT_WEIGHTS,
    FLUX_PRIOR_REDUX,
    POOLED_PROJECTION,
    POOLED_SPAN,
    REFUSAL,
)
from flux_serving.contract.tensors import Array, Tensor
from flux_serving.errors import InvalidRequest
from flux_serving.settings import Checkpoints
from flux_serving.stages.blending import concatenated, summed
from flux_serving.stages.context import Span, assemble
from flux_serving.stages.framing import View, views
from flux_serving.stages.picture_control import PictureControl, picture_part, spans_in
from flux_serving.stages.picture_decoding import decode_picture
from flux_serving.stages.prompt_encoding import check_prompt, encode_prompt, text_parts
from flux_serving.stages.redux_prior import encode_pictures
from flux_serving.weights import choose_dtype, load_prior, open_device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Order:
    """A checked request. views, controls: of each picture. prompt: empty for none."""

    views: list[list[View]]
    controls: list[PictureControl]
    blend: str
    prompt: str
    prompt_strength: float
    prompt_span: Span

    @property
    def pictures(self) -> list[Image.Image]:
        """What the vision tower is shown."""
        return [view.picture for of_one in self.views for view in of_one]


class FluxPriorReduxModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        instance = Instance.start(FLUX_PRIOR_REDUX, args)
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        self._prior = load_prior(Checkpoints.from_environment(os.environ), device, dtype)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Every request is read by itself, so a bad one harms no other; the good ones are encoded together."""
        answers: list[Any] = [None] * len(requests)
        orders: dict[int, _Order] = {}
        for index, request in enumerate(requests):
            try:
                orders[index] = self._read(request)
            except InvalidRequest as error:
                answers[index] = _refuse(request, error)
            except Exception as error:
                answers[index] = error_response(FLUX_PRIOR_REDUX, request.request_id(), error)
        batch = self._encode_together(orders)
        for index, order in orders.items():
            try:
                tokens = batch.get(index) or encode_pictures(self._prior, order.pictures)
                answers[index] = self._answer(requests[index], order, tokens)
            except InvalidRequest as error:
                answers[index] = _refuse(requests[index], error)
            except Exception as error:
                answers[index] = error_response(FLUX_PRIOR_REDUX, requests[index].request_id(), error)
        return answers

    def close(self) -> None:
        pass

    def _read(self, request: Any) -> _Order:
        values = read_inputs(FLUX_PRIOR_REDUX, request)
        prompt = read_text(FLUX_PRIOR_REDUX, PROMPT, values)
        check_prompt(self._prior, prompt)
        controls = PictureControl.of_each(values, len(values[IMAGE.name]))
        (prompt_span,) = spans_in(values, PROMPT_START, PROMPT_END, 1)
        return _Order(
            views=_show_all(values, controls),
            controls=controls,
            blend=read_text(FLUX_PRIOR_REDUX, IMAGE_BLEND, values),
            prompt=prompt,
            prompt_strength=float(PROMPT_STRENGTH.value_in(values)),
            prompt_span=prompt_span,
        )

    def _encode_together(self, orders: Mapping[int, _Order]) -> dict[int, list[torch.Tensor]]:
        """Empty if the batch fails: then each is encoded alone, so that one request's trouble stays its own."""
        try:
            tokens = iter(encode_pictures(self._prior, [p for order in orders.values() for p in order.pictures]))
            return {index: list(islice(tokens, len(order.pictures))) for index, order in orders.items()}
        except Exception:
            log.exception("a batch of %d requests failed, encoding them one by one", len(orders))
            return {}

    def _answer(self, request: Any, order: _Order, tokens: Sequence[torch.Tensor]) -> Any:
        """tokens: of each view. Raises InvalidRequest: the pictures cannot be blended as they should be."""
        text, rest = encode_prompt(self._prior, order.prompt), iter(tokens)
        pictures = [
            picture_part(of_one, list(islice(rest, len(of_one))), control)
            for of_one, control in zip(order.views, order.controls, strict=True)
        ]
        strengths = [control.strength for control in order.controls]
        if order.blend == "sum":
            pictures, text = summed(pictures, strengths, text)
        else:
            pictures = concatenated(pictures, strengths)
        parts = [*text_parts(text, order.prompt_span, order.prompt_strength), *pictures]
        context = assemble(parts, text.pooled, order.prompt_span)
        return answer(
            request.requested_output_names(),
            {
                CONTEXT: context.tokens.float().cpu().numpy(),
                CONTEXT_WEIGHTS: context.weights.numpy(),
                CONTEXT_SPANS: context.all_spans.numpy(),
                POOLED_PROJECTION: context.pooled.float().cpu().numpy(),
                POOLED_SPAN: POOLED_SPAN.array([context.pooled_span.start, context.pooled_span.end]),
                REFUSAL: REFUSAL.array(""),
            },
        )


def _show_all(values: Mapping[str, Array], controls: Sequence[PictureControl]) -> list[list[View]]:
    """What the vision tower is to see of each picture.

    Raises InvalidRequest: one is no picture, they have too many pixels together, or a mask does not fit its picture.
    """
    pictures = _decode_all(IMAGE, values[IMAGE.name])
    masks = _decode_masks(IMAGE_MASK.values_in(values, len(pictures), default=b""))
    shown = []
    for index, (picture, mask, control) in enumerate(zip(pictures, masks, controls, strict=True)):
        try:
            shown.append(views(picture, control.fit, mask, control.is_cropped))
        except InvalidRequest as error:
            raise InvalidRequest(f"{IMAGE.name}[{index}]: {error}") from None
    return shown


def _decode_all(tensor: Tensor, encoded: Iterable[bytes]) -> list[Image.Image]:
    """Raises InvalidRequest: one of them is no picture, or they have too many pixels together."""
    pictures: list[Image.Image] = []
    pixels_left = MAX_PICTURE_PIXELS
    for index, item in enumerate(encoded):
        try:
            picture = decode_picture(item, pixels_left)
        except InvalidRequest as error:
            raise InvalidRequest(f"{tensor.name}[{index}]: {error}") from None
        pixels_left -= picture.width * picture.height
        pictures.append(picture)
    return pictures


def _decode_masks(encoded: Sequence[bytes]) -> list[Image.Image | None]:
    """Mode L; None for an empty one. Raises InvalidRequest as `_decode_all`."""
    decoded = iter(_decode_all(IMAGE_MASK, filter(None, encoded)))
    return [next(decoded).convert("L") if item else None for item in encoded]


def _refuse(request: Any, error: InvalidRequest) -> Any:
    """A refusal as an answer, which the cache may keep: the same request would be refused again."""
    return answer(
        request.requested_output_names(),
        {
            CONTEXT: np.zeros((1, 1), np.float32),
            CONTEXT_WEIGHTS: np.zeros(1, np.float32),
            CONTEXT_SPANS: np.zeros((1, 2), np.float32),
            POOLED_PROJECTION: np.zeros(1, np.float32),
            POOLED_SPAN: np.zeros(2, np.float32),
            REFUSAL: REFUSAL.array(full_message(FLUX_PRIOR_REDUX, error)),
        },
    )
