"""`flux_prior_redux`: pictures and a prompt to weighted context tokens, many requests in one batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

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
from flux_serving.contract.models import (
    CONTEXT,
    CONTEXT_SPANS,
    CONTEXT_WEIGHTS,
    FLUX_PRIOR_REDUX,
    POOLED_PROJECTION,
    POOLED_SPAN,
    REFUSAL,
)
from flux_serving.errors import InvalidRequest
from flux_serving.settings import Checkpoints
from flux_serving.stages.condition import Wish, compose
from flux_serving.stages.framing import Patches
from flux_serving.stages.picture_control import PictureControl, spans_in
from flux_serving.stages.prompt_encoding import check_prompt, encode_prompt
from flux_serving.stages.redux_prior import encode_pictures
from flux_serving.stages.showing import show
from flux_serving.weights import choose_dtype, load_prior, open_device

log = logging.getLogger(__name__)


class FluxPriorReduxModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        instance = Instance.start(FLUX_PRIOR_REDUX, args)
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        self._prior = load_prior(Checkpoints.from_environment(os.environ), device, dtype)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Every request is read by itself, so a bad one harms no other; the good ones are encoded together."""
        answers: list[Any] = [None] * len(requests)
        wishes: dict[int, Wish] = {}
        for index, request in enumerate(requests):
            try:
                wishes[index] = self._read(request)
            except InvalidRequest as error:
                answers[index] = _refuse(request, error)
            except Exception as error:
                answers[index] = error_response(FLUX_PRIOR_REDUX, request.request_id(), error)
        batch = self._encode_together(wishes)
        for index, wish in wishes.items():
            try:
                tokens = batch.get(index) or encode_pictures(self._prior, wish.squares)
                answers[index] = self._answer(requests[index], wish, tokens)
            except InvalidRequest as error:
                answers[index] = _refuse(requests[index], error)
            except Exception as error:
                answers[index] = error_response(FLUX_PRIOR_REDUX, requests[index].request_id(), error)
        return answers

    def close(self) -> None:
        pass

    def _read(self, request: Any) -> Wish:
        values = read_inputs(FLUX_PRIOR_REDUX, request)
        prompt = read_text(FLUX_PRIOR_REDUX, PROMPT, values)
        check_prompt(self._prior, prompt)
        pictures = values[IMAGE.name].tolist()
        controls = PictureControl.of_each(values, len(pictures))
        (prompt_span,) = spans_in(values, PROMPT_START, PROMPT_END, 1)
        vision = self._prior.image_encoder.config
        patches = Patches.of_vision(vision.image_size, vision.patch_size)
        wish = Wish(
            views=show(pictures, IMAGE_MASK.values_in(values, len(pictures)), controls, patches),
            controls=controls,
            blend=read_text(FLUX_PRIOR_REDUX, IMAGE_BLEND, values),
            prompt=prompt,
            prompt_strength=float(PROMPT_STRENGTH.value_in(values)),
            prompt_span=prompt_span,
        )
        wish.check_size(patches.side**2)
        return wish

    def _encode_together(self, wishes: Mapping[int, Wish]) -> dict[int, list[torch.Tensor]]:
        """Empty if the batch fails: then each is encoded alone, so that one request's trouble stays its own."""
        try:
            tokens = iter(encode_pictures(self._prior, [p for wish in wishes.values() for p in wish.squares]))
            return {index: list(islice(tokens, len(wish.squares))) for index, wish in wishes.items()}
        except Exception:
            log.exception("a batch of %d requests failed, encoding them one by one", len(wishes))
            return {}

    def _answer(self, request: Any, wish: Wish, tokens: Sequence[torch.Tensor]) -> Any:
        """tokens: of each square. Raises InvalidRequest as `compose`."""
        context = compose(wish, encode_prompt(self._prior, wish.prompt), tokens)
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
