"""A request's whole condition: what the vision tower is to see, and the context that comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from PIL import Image
from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.limits import EMPTY_PROMPT_TOKENS, MAX_CONTEXT_TOKENS, MAX_VIEWS
from flux_contract.parameters import IMAGE, IMAGE_DETAIL, IMAGE_FIT, IMAGE_STRENGTH, PROMPT_STRENGTH
from flux_serving.conditioning.blending import concatenated, summed
from flux_serving.conditioning.context import Context, EncodedPrompt, Span, assemble
from flux_serving.conditioning.detail import pooled_count
from flux_serving.conditioning.framing import View
from flux_serving.conditioning.picture_control import PictureControl, picture_part
from flux_serving.conditioning.prompt_encoding import text_parts


@dataclass(frozen=True)
class ConditionOptions:
    """What a request asks for. views, controls: of each picture, if there are any. blend: of the contract.

    prompt, negative_prompt: None for none.
    """

    views: Sequence[Sequence[View]]
    controls: Sequence[PictureControl]
    blend: str
    prompt: str | None
    negative_prompt: str | None
    prompt_strength: float
    prompt_span: Span

    @property
    def squares(self) -> list[Image.Image]:
        """What the vision tower is to see, in order."""
        return [view.picture for views in self.views for view in views]

    def without_pictures(self) -> ConditionOptions:
        """The same, once the vision tower has its squares: what is left needs no pictures, whose memory can go."""
        nothing = Image.new("RGB", (1, 1))
        return replace(self, views=[[replace(view, picture=nothing) for view in views] for views in self.views])

    def check_size(self, tokens_of_view: int) -> None:
        """Raises InvalidRequest: too many views, or too many tokens come of them."""
        count = sum(map(len, self.views))
        if count > MAX_VIEWS:
            raise InvalidRequest(f"{IMAGE.name} and {IMAGE_FIT.name} make {count} squares, at most {MAX_VIEWS}")
        tokens = EMPTY_PROMPT_TOKENS + sum(
            len(views) * pooled_count(tokens_of_view, control.detail)
            for views, control in zip(self.views, self.controls, strict=True)
        )
        if tokens > MAX_CONTEXT_TOKENS:
            raise InvalidRequest(
                f"{IMAGE.name}, {IMAGE_FIT.name} and {IMAGE_DETAIL.name} make {tokens} context tokens, "
                f"at most {MAX_CONTEXT_TOKENS}"
            )


def compose(options: ConditionOptions, text: EncodedPrompt, tokens: Sequence[Tensor]) -> Context:
    """tokens: (tokens, width) of each square.

    Raises InvalidRequest: the pictures cannot be added up, or at some time nothing is there that steers.
    """
    rest: Iterator[Tensor] = iter(tokens)
    pictures = [
        picture_part(views, list(islice(rest, len(views))), control)
        for views, control in zip(options.views, options.controls, strict=True)
    ]
    strengths = [control.strength for control in options.controls]
    if options.blend == "sum" and pictures:
        pictures, text = summed(pictures, strengths, text)
    else:
        pictures = concatenated(pictures, strengths)
    parts = [*text_parts(text, options.prompt_span, options.prompt_strength), *pictures]
    there = [part.span for part in parts if bool((part.weights > 0).any())]
    for start in {0.0, *(span.end for span in there)} - {1.0}:
        if not any(span.start <= start < span.end for span in there):
            raise InvalidRequest(
                f"{IMAGE_STRENGTH.name} and {PROMPT_STRENGTH.name} leave nothing that steers once {start:g} of the "
                "steps are over"
            )
    return assemble(parts, text.pooled, options.prompt_span)
