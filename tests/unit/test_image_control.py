"""The options of input images, each compared with its published definition, which the tests spell out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from flux_contract import parameters
from flux_contract.errors import InvalidRequest
from flux_serving.backend.condition_options import read_image_controls
from flux_serving.backend.option_values import read_spans
from flux_serving.conditioning.blending import concatenated, summed
from flux_serving.conditioning.context import ContextPart, EncodedPrompt
from flux_serving.conditioning.detail import pooled
from flux_serving.conditioning.framing import Patches, View, coverage, views
from flux_serving.conditioning.image_control import ImageControl, image_part
from flux_serving.conditioning.prompt_encoding import text_parts
from flux_serving.conditioning.span import ALWAYS, Span
from flux_serving.network.attention import weighted_attention

WIDTH = 6
PATCHES = Patches(3, 1 / 3)
PLAIN = ImageControl(1.0, 1, "area", "one", "stretch", False, False, ALWAYS)


def random_tokens(side: int, seed: int = 0) -> Tensor:
    return torch.randn(side * side, WIDTH, generator=torch.Generator().manual_seed(seed))


def part_of(control: ImageControl, side: int = 6) -> ContextPart:
    return image_part([View(Image.new("RGB", (8, 8)))], [random_tokens(side)], control)


def control(**changes: object) -> ImageControl:
    return ImageControl(**{**PLAIN.__dict__, **changes})  # type: ignore[arg-type]


# Strength


@pytest.mark.parametrize("way", ["mask", "merge"])
@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0, 4.0])
def test_strength_is_a_bias_on_the_logits(way: str, strength: float) -> None:
    """softmax(q k / sqrt(d) + log(strength)) v, as the attention bias of ComfyUI's StyleModelApply."""
    (part,) = concatenated([ContextPart(torch.zeros(3, WIDTH), torch.ones(3))], [strength])
    weights = torch.cat([torch.ones(2), part.weights])[None]
    query, key, value = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    bias = torch.tensor([0.0, 0.0, *[math.log(strength)] * 3, 0.0, 0.0, 0.0, 0.0])
    expected = ((query @ key.mT) / math.sqrt(8) + bias).softmax(-1) @ value
    actual = weighted_attention(weights, 4, torch.float32, way)(query, key, value)
    assert (actual - expected).abs().max() < 1e-6


# Detail


@pytest.mark.parametrize(("side", "factor"), [(6, 2), (6, 3), (7, 2), (27, 4), (4, 9)])
def test_area_filter_is_the_mean_over_each_cell(side: int, factor: int) -> None:
    """Cell i of n begins at floor(i * side / n) and ends before ceil((i + 1) * side / n)."""
    tokens, small = random_tokens(side), max(1, side // factor)
    grid = tokens.reshape(side, side, WIDTH)
    cells = [(i * side // small, -(-(i + 1) * side // small)) for i in range(small)]
    expected = torch.stack([grid[a:b, c:d].mean((0, 1)) for a, b in cells for c, d in cells])
    fewer, weights = pooled(tokens, None, factor, "area")
    assert (fewer - expected).abs().max() < 1e-6
    assert weights.tolist() == [1.0] * small**2


@pytest.mark.parametrize(("side", "factor"), [(6, 2), (6, 3), (7, 2), (27, 4), (4, 9)])
def test_triangle_filter_falls_linearly_to_the_centres_of_neighbouring_cells(side: int, factor: int) -> None:
    small = max(1, side // factor)
    width = side / small
    middles, places = (torch.arange(small) + 0.5) * width, torch.arange(side) + 0.5
    shares = (1 - (places - middles[:, None]).abs() / width).clamp(min=0)
    shares /= shares.sum(1, keepdim=True)
    expected = torch.einsum("ir,jc,rcw->ijw", shares, shares, random_tokens(side).reshape(side, side, WIDTH))
    fewer, weights = pooled(random_tokens(side), None, factor, "triangle")
    assert (fewer - expected.flatten(0, 1)).abs().max() < 1e-6
    assert weights.tolist() == [1.0] * small**2


@pytest.mark.parametrize("filter_name", ["area", "triangle"])
def test_pooled_token_is_the_mean_of_the_covered_tokens(filter_name: str) -> None:
    """Uncovered tokens do not contribute, however large their values are."""
    covered = torch.tensor([1.0, 1, 0, 0] * 4)
    tokens = torch.where(covered == 1, torch.arange(16.0), 1e6)[:, None].expand(16, WIDTH)
    (token,), weights = pooled(tokens, covered, 4, filter_name)
    assert token.tolist() == pytest.approx([(0 + 1 + 4 + 5 + 8 + 9 + 12 + 13) / 8] * WIDTH, abs=0.1)
    assert weights.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(("choice", "weight"), [("one", 1.0), ("all", 9.0)])
def test_pooled_token_weighs_one_or_the_number_of_tokens_it_replaces(choice: str, weight: float) -> None:
    part = part_of(control(detail=3, detail_weight=choice))
    assert part.weights.tolist() == pytest.approx([weight] * 4)


def test_full_detail_leaves_tokens_bit_equal() -> None:
    for changes in ({"detail": 1}, {"detail_filter": "triangle"}, {"detail_weight": "all"}):
        part = part_of(control(**changes))
        assert torch.equal(part.tokens, random_tokens(6))
        assert part.weights.tolist() == [1.0] * 36


# Blending


def test_sum_is_the_weighted_sum_of_diffusers() -> None:
    """prompt_embeds * scale, summed over the images. The prompt is included once per image."""
    parts = [ContextPart(random_tokens(3, seed), torch.ones(9)) for seed in (1, 2, 3)]
    text = EncodedPrompt(torch.randn(4, WIDTH), 1.0, torch.randn(5))
    scales = [0.5, 2.0, 0.25]
    embeds = torch.stack([torch.cat([text.tokens, part.tokens]) for part in parts])
    expected = (embeds * torch.tensor(scales)[:, None, None]).sum(0)
    (image,), scaled = summed(parts, scales, text)
    assert (torch.cat([scaled.tokens, image.tokens]) - expected).abs().max() < 1e-6
    assert torch.allclose(scaled.pooled, (text.pooled * torch.tensor(scales)[:, None]).sum(0), atol=1e-6)
    assert image.weights.tolist() == [1.0] * 9


def test_sum_of_one_image_leaves_tokens_bit_equal() -> None:
    part, text = part_of(PLAIN), EncodedPrompt(torch.randn(4, WIDTH), 1.0, torch.randn(5))
    (image,), scaled = summed([part], [1.0], text)
    assert torch.equal(image.tokens, part.tokens)
    assert torch.equal(scaled.tokens, text.tokens)


@pytest.mark.parametrize("other", [control(detail=2), control(span=Span(0, 0.5))])
def test_rejects_sum_of_images_with_different_options(other: ImageControl) -> None:
    parts = [part_of(PLAIN), part_of(other)]
    with pytest.raises(InvalidRequest, match="IMAGE_BLEND='sum' requires the same detail, fit, mask, start and end"):
        summed(parts, [1.0, 1.0], EncodedPrompt(torch.zeros(1, WIDTH), 512.0, torch.zeros(2)))


# Masks and framing


def drawn(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def test_token_weight_is_the_unmasked_share_of_its_patch() -> None:
    (view,) = views(drawn(40, 20), "stretch", Patches(4, 1 / 4), box_mask((40, 20), (5, 0, 40, 15)))
    rows = [1.0, 1.0, 1.0, 0.0]
    expected = torch.tensor([[row * column for column in (0.5, 1.0, 1.0, 1.0)] for row in rows])
    assert view.coverage is not None
    assert (view.coverage.reshape(4, 4) - expected).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixels", "patches"), [(5, Patches(2, 1 / 2)), (64, Patches(27, 14 / 384)), (9, Patches(4, 0.2))]
)
def test_coverage_is_exact_if_patch_edges_lie_within_pixels(pixels: int, patches: Patches) -> None:
    """Compared with an image enlarged so that every patch edge lies between pixels."""
    cover = np.random.default_rng(pixels).integers(0, 256, (pixels, pixels)).astype(np.uint8)
    edge = round(1000 * patches.share * pixels) if pixels < 20 else 0
    fine = np.kron(cover, np.ones((384, 384))) if pixels == 64 else np.kron(cover, np.ones((1000, 1000)))
    edge = edge or 14 * pixels
    cells = [slice(i * edge, (i + 1) * edge) for i in range(patches.side)]
    expected = torch.tensor([[fine[a, b].mean() / 255 for b in cells] for a in cells])
    assert (coverage(cover, patches).reshape(patches.side, -1) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain", "tiles"])
@pytest.mark.parametrize("is_cropped", [False, True])
def test_masked_areas_do_not_affect_the_views(fit: str, is_cropped: bool) -> None:
    mask = box_mask((60, 20), (10, 5, 30, 15))
    image, other = drawn(60, 20), drawn(60, 20).transpose(Image.Transpose.ROTATE_180)
    other.paste(image, mask=mask)
    assert image.tobytes() != other.tobytes()
    for one, same in zip(*(views(p, fit, PATCHES, mask, is_cropped) for p in (image, other)), strict=True):
        assert one.image.tobytes() == same.image.tobytes()


def test_white_mask_leaves_the_image_bit_equal() -> None:
    image = drawn(30, 20)
    (view,) = views(image, "stretch", PATCHES, Image.new("L", (30, 20), 255))
    assert view.image.tobytes() == image.tobytes()
    assert view.coverage is None


def test_crop_is_the_bounding_box_of_the_mask() -> None:
    (view,) = views(drawn(40, 30), "stretch", PATCHES, box_mask((40, 30), (5, 10, 25, 20)), is_cropped=True)
    assert view.image.tobytes() == drawn(40, 30).crop((5, 10, 25, 20)).tobytes()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (10, 10), 255), "IMAGE_MASK has 10x10 pixels, expected the image's size, 40x30"),
        (Image.new("L", (40, 30), 0), "IMAGE_MASK excludes the whole image"),
    ],
)
def test_rejects_mask_of_other_size_and_empty_mask(mask: Image.Image, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        views(drawn(40, 30), "stretch", PATCHES, mask)


def test_cover_keeps_the_middle_and_contain_keeps_everything() -> None:
    image = drawn(60, 20)
    (covering,) = views(image, "cover", PATCHES)
    assert covering.image.tobytes() == image.crop((20, 0, 40, 20)).tobytes()
    assert covering.coverage is None
    (contained,) = views(image, "contain", PATCHES)
    assert contained.image.size == (60, 60)
    assert contained.image.crop((0, 20, 60, 40)).tobytes() == image.tobytes()
    assert contained.coverage is not None
    assert contained.coverage.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_very_long_image_is_padded_to_a_square_of_limited_size() -> None:
    (contained,) = views(Image.new("RGB", (30000, 3)), "contain", PATCHES)
    assert contained.image.size == (2048, 2048)


def test_rejects_mask_whose_area_is_cut_off_by_the_fit() -> None:
    with pytest.raises(InvalidRequest, match="IMAGE_MASK excludes the whole image"):
        views(drawn(60, 20), "cover", PATCHES, box_mask((60, 20), (0, 0, 10, 20)))


def test_padding_tokens_have_weight_0() -> None:
    part = image_part(views(drawn(60, 20), "contain", PATCHES), [random_tokens(3)], PLAIN)
    assert part.weights.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(("size", "starts"), [((60, 20), [0, 20, 40]), ((50, 20), [0, 15, 30]), ((20, 20), [0])])
@pytest.mark.parametrize("is_tall", [False, True])
def test_tiles_are_squares_that_share_the_weight_of_one(
    size: tuple[int, int], starts: list[int], is_tall: bool
) -> None:
    image = drawn(*(size[::-1] if is_tall else size))
    tiles = views(image, "tiles", PATCHES)
    boxes = [(0, s, 20, s + 20) if is_tall else (s, 0, s + 20, 20) for s in starts]
    assert [tile.image.tobytes() for tile in tiles] == [image.crop(box).tobytes() for box in boxes]
    part = image_part(tiles, [random_tokens(3, seed) for seed in range(len(tiles))], PLAIN)
    assert part.weights.sum().item() == pytest.approx(9)


def test_rejects_image_that_needs_too_many_tiles() -> None:
    with pytest.raises(InvalidRequest, match="IMAGE_FIT='tiles' cuts 90x10 pixels into 9 tiles, expected at most 8"):
        views(drawn(90, 10), "tiles", PATCHES)


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain", "tiles"])
def test_square_image_is_unchanged_by_every_fit(fit: str) -> None:
    (view,) = views(drawn(24, 24), fit, PATCHES)
    assert view.image.tobytes() == drawn(24, 24).tobytes()
    assert view.coverage is None


# Spans and prompts


def test_empty_prompt_is_used_before_and_after_the_span_of_a_prompt() -> None:
    text = EncodedPrompt(torch.ones(3, WIDTH), 1.0, torch.ones(5))
    prompt, before, after = text_parts(text, Span(0.25, 0.5), strength=2.0)
    assert prompt.weights.tolist() == [2.0] * 3
    for part, span in ((before, Span(0, 0.25)), (after, Span(0.5, 1))):
        assert part.span == span
        assert not part.tokens.any()
        assert part.weights.tolist() == [512.0]
    (always,) = text_parts(text, ALWAYS, strength=1.0)
    assert torch.equal(always.tokens, text.tokens)
    assert always.weights.tolist() == [1.0] * 3


def test_one_value_applies_to_all_images_and_several_to_one_each() -> None:
    values = {
        "IMAGE_STRENGTH": np.array([0.5], np.float32),
        "IMAGE_FIT": np.array([b"cover", b"tiles"], np.object_),
        "IMAGE_START": np.array([0, 0.5], np.float32),
    }
    first, second = read_image_controls(values, 2)
    assert (first.strength, first.fit, first.span) == (0.5, "cover", Span(0, 1))
    assert (second.strength, second.fit, second.span) == (0.5, "tiles", Span(0.5, 1))
    assert read_image_controls({}, 1) == [PLAIN]


def test_rejects_wrong_number_of_values() -> None:
    with pytest.raises(InvalidRequest, match="IMAGE_DETAIL has 2 values for 3 images, expected one, or one each"):
        read_image_controls({"IMAGE_DETAIL": np.array([1, 2], np.int32)}, 3)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.75, 0.25)])
def test_rejects_end_that_is_not_after_the_start(start: float, end: float) -> None:
    values = {"IMAGE_START": np.array([start], np.float32), "IMAGE_END": np.array([end], np.float32)}
    with pytest.raises(InvalidRequest, match=f"IMAGE_START={start}, expected less than IMAGE_END={end}"):
        read_spans(values, parameters.IMAGE_START, parameters.IMAGE_END, 1)
