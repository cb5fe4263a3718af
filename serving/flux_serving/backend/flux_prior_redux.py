"""`flux_prior_redux`: pictures and a prompt to weighted context tokens, many requests in one batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch

from flux_contract.internal_tensors import CONTEXT_SPANS, NEGATIVE, POOLED_SPAN, POSITIVE, REFUSAL
from flux_contract.models import FLUX_PRIOR_REDUX
from flux_contract.parameters import (
    IMAGE,
    IMAGE_BLEND,
    IMAGE_MASK,
    NEGATIVE_PROMPT,
    PROMPT,
    PROMPT_END,
    PROMPT_START,
    PROMPT_STRENGTH,
)
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.pending_request import PendingRequest
from flux_serving.backend.request_queue import RequestQueue
from flux_serving.backend.wire import read_text
from flux_serving.conditioning.condition import ConditionOptions, compose
from flux_serving.conditioning.context import Context
from flux_serving.conditioning.framing import Patches
from flux_serving.conditioning.picture_control import PictureControl, spans_in
from flux_serving.conditioning.prompt_encoding import as_context, check_prompt, encode_prompt
from flux_serving.conditioning.redux_prior import encode_squares, preprocess
from flux_serving.conditioning.showing import show
from flux_serving.images.picture_decoding import Decode
from flux_serving.network.weights import choose_dtype, load_prior, open_device
from flux_serving.settings import Checkpoints

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """A request whose pictures were read. squares: (views, 3, side, side), for the vision tower."""

    options: ConditionOptions
    squares: torch.Tensor


class FluxPriorReduxModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        instance = self._instance = Instance.start(FLUX_PRIOR_REDUX, args)
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        self._prior = load_prior(Checkpoints.from_environment(os.environ), device, dtype)
        self._queue = RequestQueue(
            FLUX_PRIOR_REDUX, instance.settings, REFUSAL, self._read, self._finish, FLUX_PRIOR_REDUX.max_batch_size
        )
        instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        self._queue.accept(requests)

    def close(self) -> None:
        self._queue.close()
        self._instance.close()

    def _read(self, values: Mapping[str, Array], decode: Decode) -> _Seen:
        """Every request is read by itself, so a bad one harms no other."""
        pictures = values[IMAGE.name].tolist() if IMAGE.name in values else []
        prompt, negative_prompt = (self._prompt(tensor, values) for tensor in (PROMPT, NEGATIVE_PROMPT))
        if not prompt and (pictures or self._prior.text_encoder is None):
            # Beside pictures an empty prompt is none, as diffusers' Redux has it; without them it is the empty text.
            prompt = None
        check_prompt(self._prior, PROMPT, prompt)
        check_prompt(self._prior, NEGATIVE_PROMPT, negative_prompt)
        controls = PictureControl.of_each(values, len(pictures))
        (prompt_span,) = spans_in(values, PROMPT_START, PROMPT_END, 1)
        vision = self._prior.image_encoder.config
        patches = Patches.of_vision(vision.image_size, vision.patch_size)
        options = ConditionOptions(
            views=show(pictures, IMAGE_MASK.values_in(values, len(pictures)), controls, patches, decode),
            controls=controls,
            blend=read_text(FLUX_PRIOR_REDUX, IMAGE_BLEND, values),
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_strength=float(PROMPT_STRENGTH.value_in(values)),
            prompt_span=prompt_span,
        )
        options.check_size(patches.side**2)
        return _Seen(options.without_pictures(), preprocess(self._prior, options.squares))

    def _prompt(self, tensor: Tensor, values: Mapping[str, Array]) -> str | None:
        """None where there is none."""
        return read_text(FLUX_PRIOR_REDUX, tensor, values) if tensor.name in values else None

    def _finish(self, batch: Sequence[tuple[PendingRequest, _Seen]]) -> None:
        """The pictures of all requests are encoded together."""
        together = self._encode_together([seen for _, seen in batch])
        for index, (pending, (options, squares)) in enumerate(batch):
            try:
                tokens = together[index] if together else encode_squares(self._prior, squares)
                pending.answer(self._outputs(options, tokens))
            except Exception as error:
                pending.fail(error)

    def _encode_together(self, batch: Sequence[_Seen]) -> list[list[torch.Tensor]]:
        """Empty if the batch fails: then each is encoded alone, so that one request's trouble stays its own."""
        try:
            tokens = iter(encode_squares(self._prior, torch.cat([squares for _, squares in batch])))
            return [list(islice(tokens, len(squares))) for _, squares in batch]
        except Exception:
            log.exception("a batch of %d requests failed, encoding them one by one", len(batch))
            return []

    def _outputs(self, options: ConditionOptions, tokens: Sequence[torch.Tensor]) -> dict[Tensor, Array]:
        """tokens: of each square. Raises InvalidRequest as `compose`."""
        context = compose(options, encode_prompt(self._prior, options.prompt), tokens)
        negative = _NO_NEGATIVE
        if options.negative_prompt is not None:
            negative = as_context(encode_prompt(self._prior, options.negative_prompt))
        outputs: dict[Tensor, Array] = {
            CONTEXT_SPANS: context.all_spans.numpy(),
            POOLED_SPAN: POOLED_SPAN.array([context.pooled_span.start, context.pooled_span.end]),
            REFUSAL: REFUSAL.array(""),
        }
        for one, names in ((context, POSITIVE), (negative, NEGATIVE)):
            arrays = (one.tokens.float().cpu().numpy(), one.weights.numpy(), one.pooled.float().cpu().numpy())
            outputs |= zip(names, arrays, strict=True)
        return outputs


#: What stands for no negative prompt, because an answer has all outputs.
_NO_NEGATIVE = Context(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
