"""Options of the calls of `FluxClient`. The server uses its default for an option that is left out or None.

Rendered from contract/flux_contract by scripts/render; edit there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict

from flux_client.images import ImageInput, Masks

#: A mode: the name of a method of the client, and `mode` of `stream`.
ModeName = Literal["redux", "img2img", "inpaint", "text2img", "canny"]

ImageDetailFilter: TypeAlias = Literal["area", "triangle"]
ImageDetailWeight: TypeAlias = Literal["one", "all"]
ImageBlend: TypeAlias = Literal["concat", "sum"]
ImageFit: TypeAlias = Literal["stretch", "cover", "contain", "tiles"]
OutputFormat: TypeAlias = Literal["png", "jpeg", "webp"]
PreviewMethod: TypeAlias = Literal["latent2rgb", "vae"]
Fit: TypeAlias = Literal["cover", "contain", "stretch"]
MaskChannel: TypeAlias = Literal["luminance", "alpha"]
ControlKind: TypeAlias = Literal["photo", "edges"]


class ImagesGroup(TypedDict, total=False):
    """Images."""

    #: Weight of an image's tokens in attention: 1 is the same as diffusers, 0 leaves the image out. One value for all
    #: images, or one for each. 0..4; default: 1.
    image_strength: float | Sequence[float] | None
    #: Number of Redux tokens that are pooled into one along each side of the token grid: 1 keeps all detail, higher
    #: values keep only the composition and the mood. The side of the pooled grid is the side of the full grid divided
    #: by this value, rounded down, and at least 1. One value for all images, or one for each. 1..9; default: 1.
    image_detail: int | Sequence[int] | None
    #: Filter of the pooling: `area` is the mean of a cell, `triangle` is a smoother mean of twice its width. One value
    #: for all images, or one for each. Default: area.
    image_detail_filter: ImageDetailFilter | Sequence[ImageDetailFilter] | None
    #: Weight of a pooled token: with `one`, less detail also gives the prompt more influence; with `all`, the weight is
    #: the number of pooled tokens, so the image keeps its influence. One value for all images, or one for each.
    #: Default: one.
    image_detail_weight: ImageDetailWeight | Sequence[ImageDetailWeight] | None
    #: How several images are combined: `concat` uses all of their tokens, `sum` is diffusers' weighted sum of their
    #: tokens. With `sum`, image_strength is diffusers' `prompt_embeds_scale` and `pooled_prompt_embeds_scale`. Default:
    #: concat.
    image_blend: ImageBlend | None
    #: Encoded masks, each of the size of its image, white where the image is used; empty for an image without a mask.
    #: The vision encoder does not see black and transparent parts, and the weight of a token is the white share of its
    #: area. One value for all images, or one for each.
    image_mask: Masks | None
    #: 1 inverts the mask first: the image is used where the mask is black. One value for all images, or one for each.
    #: 0..1; default: 0.
    image_mask_invert: int | Sequence[int] | None
    #: 1 crops the image to the bounding box of its mask first. One value for all images, or one for each. 0..1;
    #: default: 0.
    image_mask_crop: int | Sequence[int] | None
    #: How an image is made square for the vision encoder: `stretch` changes its aspect ratio, as diffusers does;
    #: `cover` crops it to the middle; `contain` pads it with tokens of weight 0; `tiles` uses a row of squares that
    #: share the weight of one image. One value for all images, or one for each. Default: stretch.
    image_fit: ImageFit | Sequence[ImageFit] | None
    #: Fraction of the denoising steps after which the image is used. One value for all images, or one for each. 0..1;
    #: default: 0.
    image_start: float | Sequence[float] | None
    #: Fraction of the denoising steps, above the start, after which the image is no longer used. One value for all
    #: images, or one for each. 0..1; default: 1.
    image_end: float | Sequence[float] | None


class PromptGroup(TypedDict, total=False):
    """Prompt."""

    #: Weight of the prompt's tokens in attention, including its padding; without a prompt, weight of the empty prompt's
    #: tokens. 0..4; default: 1.
    prompt_strength: float | None
    #: Fraction of the denoising steps after which the prompt is used. 0..1; default: 0.
    prompt_start: float | None
    #: Fraction of the denoising steps, above the start, after which the prompt is no longer used. At other steps the
    #: prompt is empty. 0..1; default: 1.
    prompt_end: float | None
    #: Prompt from which true_cfg_scale moves the image away. A true_cfg_scale above 1 requires it. It may be empty. At
    #: most 4096 characters, UTF-8.
    negative_prompt: str | None


class MaskGroup(TypedDict, total=False):
    """Inpainting."""

    #: How the mask is read: `luminance`, white is changed and transparent parts count as black, or `alpha`, transparent
    #: parts are changed. Default: luminance.
    mask_channel: MaskChannel | None
    #: 1 inverts the mask first. 0..1; default: 0.
    mask_invert: int | None
    #: 1 uses grey values of the mask as blending weights. By default, as in diffusers, values from half are white and
    #: others are black. 0..1; default: 0.
    mask_soft: int | None
    #: Width of the transition between the generated part and the image, inside the mask. 0 is a hard edge. 0..256
    #: pixels; default: 0.
    mask_feather: int | None
    #: Generates only the bounding box of the mask with a margin of this width, at the size of the generated image, and
    #: pastes it into the image, as diffusers' `padding_mask_crop`. The result has the size of source_image. By default,
    #: the whole image is generated. 0..4096 pixels.
    padding_mask_crop: int | None


class ChangeGroup(TypedDict, total=False):
    """Image-to-image."""

    #: How much the image is changed, as diffusers' `strength`: 0 returns it unchanged, 1 starts from noise only. Below
    #: 1, at least the first step is skipped. 0..1; default: 0.7.
    strength: float | None
    #: Share of noise to start with, instead of strength. A value makes the same change at every size. 0..1.
    start_sigma: float | None
    #: How an image is resized to the generated image: `cover` crops, `contain` pads with white (edge maps with black),
    #: `stretch` resizes as diffusers does. Default: cover.
    fit: Fit | None


class EdgesGroup(TypedDict, total=False):
    """Edges."""

    #: `photo`: edges are detected in the image; `edges`: the image is an edge map, white on black. Default: photo.
    control_kind: ControlKind | None
    #: Canny's lower threshold: gradients above it continue an edge. 0..2000; default: 100.
    canny_low: float | None
    #: Canny's upper threshold: gradients above it start an edge. It must be at least canny_low. 0..2000; default: 200.
    canny_high: float | None
    #: How an image is resized to the generated image: `cover` crops, `contain` pads with white (edge maps with black),
    #: `stretch` resizes as diffusers does. Default: cover.
    fit: Fit | None


class ControlGroup(TypedDict, total=False):
    """ControlNet."""

    #: Scale of the ControlNet, as diffusers' `controlnet_conditioning_scale`. 0..2; default: 1.
    control_scale: float | None
    #: Fraction of the denoising steps after which the ControlNet is used, as diffusers' `control_guidance_start`. 0..1;
    #: default: 0.
    control_start: float | None
    #: Fraction of the denoising steps, above the start, after which the ControlNet is no longer used, as diffusers'
    #: `control_guidance_end`. 0..1; default: 1.
    control_end: float | None


class SizeGroup(TypedDict, total=False):
    """Size."""

    #: Height of the generated image, a multiple of 16; default: the checkpoint's native size. 16..4096 pixels.
    height: int | None
    #: Width of the generated image, a multiple of 16; default: the checkpoint's native size. 16..4096 pixels.
    width: int | None


class SamplingGroup(TypedDict, total=False):
    """Sampling."""

    #: Number of denoising steps; default: 50, or 4 for a checkpoint that is distilled for few steps. 1..100 steps.
    num_inference_steps: int | None
    #: Distilled guidance. Checkpoints without a guidance embedding ignore it. 0..30; default: 2.5.
    guidance_scale: float | None
    #: Classifier-free guidance away from negative_prompt; 1 disables it. Above 1, each step computes a second row,
    #: without the images. 1..30; default: 1.
    true_cfg_scale: float | None
    #: Number of images to generate; default: the number of seeds, or 1. 1..8 images.
    num_images: int | None
    #: Seed of the first image, image i uses seed + i; or one seed for each image. -1 picks a random seed. -1..2^63-1;
    #: default: 42.
    seed: int | Sequence[int] | None
    #: Names of LoRA adapters to apply: files of the server's adapter folder, without `.safetensors`.
    lora: str | Sequence[str] | None
    #: Scale of each adapter. One value for all adapters, or one for each. -4..4; default: 1.
    lora_scale: float | Sequence[float] | None
    #: Scheduling priority: -1 background, 0 normal, 1 interactive. Waiting images gain priority with age. -1..1;
    #: default: 0.
    priority: int | None
    #: Format of the generated images: png, jpeg, webp. Default: png.
    output_format: OutputFormat | None


class ReduxOptions(ImagesGroup, PromptGroup, SizeGroup, SamplingGroup, total=False):
    """Options of `redux`: generate variations of images."""

    #: Text prompt. It requires a base checkpoint with text encoders. With images, an empty prompt is the same as none.
    #: At most 4096 characters, UTF-8.
    prompt: str | None
    #: Calibrated alternative to image_strength: 0 leaves the image out, 0.5 is half of its full effect, 1 is the full
    #: effect. The client converts it to image_strength. One value for all images, or one for each. 0..1.
    similarity: float | Sequence[float] | None


class Img2ImgOptions(ImagesGroup, PromptGroup, ChangeGroup, SizeGroup, SamplingGroup, total=False):
    """Options of `img2img`: change images."""

    #: Text prompt. It requires a base checkpoint with text encoders. With images, an empty prompt is the same as none.
    #: At most 4096 characters, UTF-8.
    prompt: str | None


class InpaintOptions(ImagesGroup, PromptGroup, MaskGroup, ChangeGroup, SizeGroup, SamplingGroup, total=False):
    """Options of `inpaint`: change the masked part of images."""

    #: Text prompt. It requires a base checkpoint with text encoders. With images, an empty prompt is the same as none.
    #: At most 4096 characters, UTF-8.
    prompt: str | None


class Text2ImgOptions(PromptGroup, SizeGroup, SamplingGroup, total=False):
    """Options of `text2img`: generate images from prompts."""


class CannyOptions(ImagesGroup, PromptGroup, EdgesGroup, ControlGroup, SizeGroup, SamplingGroup, total=False):
    """Options of `canny`: generate images that follow the edges of other images."""

    #: Text prompt. It requires a base checkpoint with text encoders. With images, an empty prompt is the same as none.
    #: At most 4096 characters, UTF-8.
    prompt: str | None


class EdgesOptions(EdgesGroup, SizeGroup, total=False):
    """Options of `edges`."""


class StreamOptions(ReduxOptions, Img2ImgOptions, InpaintOptions, Text2ImgOptions, CannyOptions, total=False):
    """Options of `stream` in any mode. Each mode accepts its own."""

    #: Encoded image to inpaint. Bytes.
    source_image: ImageInput | None
    #: Encoded mask of the same size as source_image, white where the image is changed. Pixels outside the mask are
    #: returned unchanged. Bytes.
    mask_image: ImageInput | None
    #: Encoded image whose edges the generated image follows, or an edge map; control_kind selects which. Bytes.
    control_image: ImageInput | None
