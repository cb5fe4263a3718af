"""What each call may be told beside what it is about; left out or None, the server's default holds.

`modes` derives the same from the contract, for the checks; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from flux_client.pictures import Masks, Picture

#: What `stream` is to do: the call of this name.
ModeName = Literal["redux", "img2img", "text2img", "canny"]


class SizeKnobs(TypedDict, total=False):
    """Pixels, multiples of 16 up to 4096; default: the checkpoint's own size."""

    height: int | None
    width: int | None


class SamplingKnobs(SizeKnobs, total=False):
    """How pictures are drawn and written, whatever they show."""

    #: Denoising steps, 1..100.
    num_inference_steps: int | None
    #: Distilled guidance, 0..30.
    guidance_scale: float | None
    #: Classifier-free guidance away from negative_prompt, 1..30; 1 is off, more makes each step two.
    true_cfg_scale: float | None
    #: Pictures wanted, 1..8; default: as many as seeds.
    num_images: int | None
    #: Seed of the first picture, the i-th has `seed + i`; or one for each. -1 is a random one.
    seed: int | Sequence[int] | None
    #: Names of LoRA adapters that the server has, up to 4, which are added up.
    lora: str | Sequence[str] | None
    #: How much of each, -4..4: one number for all, or one each.
    lora_scale: float | Sequence[float] | None
    #: -1 background, 0 usual, 1 interactive: higher goes first; what is passed over for long rises.
    priority: int | None
    #: png, jpeg or webp.
    output_format: str | None


class PromptKnobs(TypedDict, total=False):
    """How much the prompt counts, when, and what it is held against."""

    #: Weight of the prompt's tokens, 0..4.
    prompt_strength: float | None
    #: Fraction of the steps that are over when the prompt comes in, and when it goes, 0..1.
    prompt_start: float | None
    prompt_end: float | None
    #: What to move away from, by true_cfg_scale; it may be empty.
    negative_prompt: str | None


class ConditionKnobs(PromptKnobs, total=False):
    """What of the pictures counts, how much and when; of what may be a sequence: one value for all, or one each."""

    #: Text beside the pictures; needs a base checkpoint with text encoders.
    prompt: str | None
    #: Weight of the pictures' tokens, 0..4; 1 is diffusers' picture, 0 leaves it out.
    image_strength: float | Sequence[float] | None
    #: How several pictures become one condition: concat, or sum, which is diffusers' weighted sum.
    image_blend: str | None
    #: Redux tokens pooled into one along each side of their grid, 1..9: 1 is full detail, more leaves the mood.
    image_detail: int | Sequence[int] | None
    #: area or triangle.
    image_detail_filter: str | Sequence[str] | None
    #: What a pooled token weighs: one, or all that it stands for.
    image_detail_weight: str | Sequence[str] | None
    #: Pictures of the pictures' sizes, white where these count; None for one without a mask.
    image_mask: Masks | None
    #: 1 cuts a picture to the box around what its mask leaves.
    image_mask_crop: int | Sequence[int] | None
    #: How a picture that is no square is seen: stretch, cover, contain or tiles.
    image_fit: str | Sequence[str] | None
    #: Fraction of the steps that are over when the picture comes in, and when it goes, 0..1.
    image_start: float | Sequence[float] | None
    image_end: float | Sequence[float] | None


class EdgeKnobs(TypedDict, total=False):
    """Which edges of a control picture are followed."""

    #: photo, whose edges are looked for, or edges: a map of them, white on black.
    control_kind: str | None
    #: Canny's thresholds, 0..2000: what continues an edge, and what begins one.
    canny_low: float | None
    canny_high: float | None
    #: What becomes of a picture of another shape than the size asked for: cover, contain or stretch.
    fit: str | None


class ReduxKnobs(ConditionKnobs, SamplingKnobs, total=False):
    """Of `redux`."""

    #: How much of the pictures, from none, 0, to all, 1, with 0.5 half of the way; instead of image_strength.
    strength: float | Sequence[float] | None


class Img2ImgKnobs(ConditionKnobs, SamplingKnobs, total=False):
    """Of `img2img`."""

    #: How much of the picture is to change, 0..1, as diffusers' `strength`.
    strength: float | None
    #: Instead of it: the share of noise to begin with, 0..1, which is the same change at every size.
    start_sigma: float | None
    #: What becomes of a picture of another shape than the size asked for: cover, contain or stretch.
    fit: str | None


class Text2ImgKnobs(PromptKnobs, SamplingKnobs, total=False):
    """Of `text2img`."""


class EdgePictureKnobs(EdgeKnobs, SizeKnobs, total=False):
    """Of `edges`."""


class CannyKnobs(ConditionKnobs, EdgeKnobs, SamplingKnobs, total=False):
    """Of `canny`."""

    #: How strictly the edges are followed, 0..2.
    control_scale: float | None
    #: Fraction of the steps that are over when the edges come in, and when they go, 0..1.
    control_start: float | None
    control_end: float | None


class StreamKnobs(ReduxKnobs, CannyKnobs, total=False):
    """Of `stream`, in any mode; each takes its own, of which `strength` means what it does there."""

    control_image: Picture | None
    start_sigma: float | None
