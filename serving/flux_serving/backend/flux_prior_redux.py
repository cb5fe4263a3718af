"""`flux_prior_redux`: encodes images and prompts as weighted context tokens, many requests in one batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch

from flux_contract.internal_tensors import CONTEXT_SPANS, NEGATIVE, POOLED_SPAN, POSITIVE, REFUSAL
from flux_contract.models import FLUX_PRIOR_REDUX
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.condition_options import read_condition_options
from flux_serving.backend.instance import Instance
from flux_serving.backend.pending_request import PendingRequest
from flux_serving.backend.request_queue import QueuedModelBase
from flux_serving.conditioning.condition import ConditionOptions, check_size, compose
from flux_serving.conditioning.context import Context
from flux_serving.conditioning.framing import Patches, View
from flux_serving.conditioning.prompt_encoding import as_context, encode_prompt
from flux_serving.conditioning.redux_prior import encode_squares, preprocess
from flux_serving.conditioning.showing import show
from flux_serving.images.image_decoding import Decode
from flux_serving.network.weights import choose_dtype, load_prior, open_device
from flux_serving.settings import Checkpoints

log = logging.getLogger(__name__)


class _Framed(NamedTuple):
    """A request whose images are decoded. views: the views of each image, without their pixels.

    squares: (views, 3, side, side), for the vision tower.
    """

    options: ConditionOptions
    views: Sequence[Sequence[View]]
    squares: torch.Tensor


class FluxPriorReduxModel(QueuedModelBase[ConditionOptions, _Framed]):
    contract = FLUX_PRIOR_REDUX
    refusal_tensor = REFUSAL
    max_together = FLUX_PRIOR_REDUX.max_batch_size

    def load(self, instance: Instance) -> None:
        device = open_device(instance.device)
        dtype = choose_dtype(instance.settings.dtype, device)
        self._prior = load_prior(Checkpoints.from_environment(os.environ), device, dtype)

    def parse(self, values: Mapping[str, Array]) -> ConditionOptions:
        return read_condition_options(values, self._prior)

    def prepare(self, options: ConditionOptions, decode: Decode) -> _Framed:
        vision = self._prior.image_encoder.config
        patches = Patches.of_vision(vision.image_size, vision.patch_size)
        views = show(options.images, patches, decode)
        check_size(options.images, views, patches.side**2)
        squares = preprocess(self._prior, [view.image for own in views for view in own])
        return _Framed(options, [[view.without_pixels() for view in own] for own in views], squares)

    def finish(self, batch: Sequence[tuple[PendingRequest[ConditionOptions], _Framed]]) -> None:
        """Encode the images of all requests together."""
        together = self._encode_together([framed for _, framed in batch])
        for index, (pending, framed) in enumerate(batch):
            try:
                pending.answer(self.outputs(framed, together[index] if together else None))
            except Exception as error:
                pending.fail(error)

    def _encode_together(self, batch: Sequence[_Framed]) -> list[list[torch.Tensor]]:
        """Returns the tokens of each request's views. Empty if the batch fails; then each request is encoded alone."""
        try:
            tokens = iter(encode_squares(self._prior, torch.cat([framed.squares for framed in batch])))
            return [list(islice(tokens, len(framed.squares))) for framed in batch]
        except Exception:
            log.exception("a batch of %d requests failed; encoding them one by one", len(batch))
            return []

    def outputs(self, prepared: _Framed, tokens: Sequence[torch.Tensor] | None = None) -> dict[Tensor, Array]:
        """Returns the request's outputs.

        tokens: of each view; None: not encoded yet. Raises InvalidRequest as `compose`.
        """
        options, views, squares = prepared
        tokens = encode_squares(self._prior, squares) if tokens is None else tokens
        context = compose(options, views, encode_prompt(self._prior, options.prompt), tokens)
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


#: Placeholder for a request without a negative prompt, because a response has all outputs.
_NO_NEGATIVE = Context(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
