"""`flux_prior_redux`: pictures and a prompt to weighted context tokens, many requests in one batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from flux_serving.backend.instance import Instance
from flux_serving.backend.wire import answer, error_response, full_message, read_inputs, read_text
from flux_serving.contract.limits import MAX_PICTURE_PIXELS
from flux_serving.contract.models import (
    CONTEXT,
    CONTEXT_WEIGHTS,
    FLUX_PRIOR_REDUX,
    IMAGE,
    IMAGE_STRENGTH,
    POOLED_PROJECTION,
    PROMPT,
    REFUSAL,
)
from flux_serving.errors import InvalidRequest
from flux_serving.settings import Checkpoints
from flux_serving.stages.context import assemble
from flux_serving.stages.picture_decoding import decode_picture
from flux_serving.stages.prompt_encoding import check_prompt, encode_prompt
from flux_serving.stages.redux_prior import encode_pictures
from flux_serving.weights import choose_dtype, load_prior, open_device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Order:
    """A checked request: pictures, the strength of each, and the prompt, empty for none."""

    pictures: list[Image.Image]
    strengths: list[float]
    prompt: str


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
            except Exception as error:
                answers[index] = error_response(FLUX_PRIOR_REDUX, requests[index].request_id(), error)
        return answers

    def close(self) -> None:
        pass

    def _read(self, request: Any) -> _Order:
        values = read_inputs(FLUX_PRIOR_REDUX, request)
        prompt = read_text(FLUX_PRIOR_REDUX, PROMPT, values)
        check_prompt(self._prior, prompt)
        count = len(values[IMAGE.name])
        strengths = values.get(IMAGE_STRENGTH.name, IMAGE_STRENGTH.array(IMAGE_STRENGTH.default)).tolist()
        if len(strengths) == 1:
            strengths *= count
        if len(strengths) != count:
            raise InvalidRequest(f"{IMAGE_STRENGTH.name} has {len(strengths)} values for {count} pictures")
        return _Order(_decode_all(values[IMAGE.name]), strengths, prompt)

    def _encode_together(self, orders: Mapping[int, _Order]) -> dict[int, list[torch.Tensor]]:
        """Empty if the batch fails: then each is encoded alone, so that one request's trouble stays its own."""
        try:
            tokens = iter(encode_pictures(self._prior, [p for order in orders.values() for p in order.pictures]))
            return {index: [next(tokens) for _ in order.pictures] for index, order in orders.items()}
        except Exception:
            log.exception("a batch of %d requests failed, encoding them one by one", len(orders))
            return {}

    def _answer(self, request: Any, order: _Order, tokens: list[torch.Tensor]) -> Any:
        context = assemble(encode_prompt(self._prior, order.prompt), tokens, order.strengths)
        return answer(
            request.requested_output_names(),
            {
                CONTEXT: context.tokens.float().cpu().numpy(),
                CONTEXT_WEIGHTS: context.weights.numpy(),
                POOLED_PROJECTION: context.pooled.float().cpu().numpy(),
                REFUSAL: REFUSAL.array(""),
            },
        )


def _decode_all(encoded: Iterable[bytes]) -> list[Image.Image]:
    """Raises InvalidRequest: one of them is no picture, or they have too many pixels together."""
    pictures: list[Image.Image] = []
    pixels_left = MAX_PICTURE_PIXELS
    for index, item in enumerate(encoded):
        try:
            picture = decode_picture(item, pixels_left)
        except InvalidRequest as error:
            raise InvalidRequest(f"{IMAGE.name}[{index}]: {error}") from None
        pixels_left -= picture.width * picture.height
        pictures.append(picture)
    return pictures


def _refuse(request: Any, error: InvalidRequest) -> Any:
    """A refusal as an answer, which the cache may keep: the same request would be refused again."""
    return answer(
        request.requested_output_names(),
        {
            CONTEXT: np.zeros((1, 1), np.float32),
            CONTEXT_WEIGHTS: np.zeros(1, np.float32),
            POOLED_PROJECTION: np.zeros(1, np.float32),
            REFUSAL: REFUSAL.array(full_message(FLUX_PRIOR_REDUX, error)),
        },
    )
