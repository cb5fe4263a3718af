"""Training of the demo checkpoint: its examples, and that its networks compute the same as the stock networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from flux_tools.demo.architecture import CONTEXT_WIDTH, POOLED_WIDTH, TEXT_TOKENS, new_controlnet, new_transformer
from flux_tools.demo.images import DemoImage
from flux_tools.training.augmentation import remixed
from flux_tools.training.captions import captions
from flux_tools.training.examples import GRIDS, NATIVE, Example, Examples, Redraw, placed
from flux_tools.training.following import canny, f1
from flux_tools.training.lora import adapt, greyscale
from flux_tools.training.networks import Flow, TrainedControlNet
from flux_tools.training.progress import TrainingRun, descend
from flux_tools.training.text import Teller
from flux_tools.training.vocabulary import keep_tokenizers, learn_tokenizers, read_tokenizers

STEPS = 300
GUIDANCE = (1.0, 5.0)


def coloured(index: int) -> DemoImage:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    rgb[16:48, 16:48] = (index * 40, 0, 255 - index * 40)
    return DemoImage(f"square {index}", str(index), str(index), rgb, (), "even" if index % 2 == 0 else "odd")


IMAGES = [coloured(index) for index in range(6)]


def mean_colours(rgb: np.ndarray) -> Tensor:
    """Stand-in for the autoencoder: every token of an image is the image's mean colour."""
    height, width = (side // 16 for side in rgb.shape[1:3])
    return torch.from_numpy(rgb.mean(axis=(1, 2))).float()[:, None].expand(-1, height * width, 3)


def all_pixels(rgb: np.ndarray) -> Tensor:
    """Stand-in for the autoencoder that keeps all pixels."""
    height, width = (side // 16 for side in rgb.shape[1:3])
    return torch.from_numpy(rgb.copy()).reshape(len(rgb), height * width, 16 * 16 * 3)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return Examples(IMAGES, mean_colours, 0, tmp_path_factory.mktemp("examples") / "latents.pt")


@pytest.fixture(scope="module")
def drawn(examples: Examples) -> list[Example]:
    return [examples.draw(step, GUIDANCE) for step in range(STEPS)]


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.manual_seed(0)
    return Flow(learn_tokenizers(text for image in IMAGES for text in captions(image))).eval()


def test_examples_of_a_step_are_reproducible(examples: Examples, drawn: list[Example]) -> None:
    again = examples.draw(7, GUIDANCE)
    assert torch.equal(again.target, drawn[7].target)
    assert torch.equal(again.noise, drawn[7].noise)
    assert again.prompts == drawn[7].prompts
    assert not torch.equal(drawn[8].noise[:2, :1], drawn[7].noise[:2, :1])


def test_examples_have_every_grid_and_mostly_the_native_one(drawn: list[Example]) -> None:
    grids = [(example.rows, example.columns) for example in drawn]
    assert set(grids) == set(GRIDS)
    assert grids.count(NATIVE) > STEPS / 2


@pytest.mark.parametrize("redraw", [canny, greyscale])
def test_redrawn_latents_belong_to_the_same_copy_as_the_target(redraw: Redraw, tmp_path: Path) -> None:
    examples = Examples(IMAGES, all_pixels, 0, tmp_path / "latents.pt")
    redrawn = examples.encoded(redraw)
    for step in range(20):
        example = examples.draw(step, GUIDANCE)
        sides = (16 * example.rows, 16 * example.columns)
        target, shown = (
            packed.reshape(-1, *sides, 3).numpy().astype(np.uint8)
            for packed in (example.target, redrawn.shown_in(example))
        )
        assert np.array_equal(shown, redraw(target))


def test_one_row_in_ten_has_no_condition(drawn: list[Example]) -> None:
    told = [
        bool(prompt) or (example.images is not None and weight > 0)
        for example in drawn
        for prompt, weight in zip(example.prompts, example.weights.tolist(), strict=True)
    ]
    assert 0.05 < 1 - np.mean(told) < 0.15


def test_image_of_small_weight_is_less_like_the_target(drawn: list[Example]) -> None:
    """Compares colours, which differ between relatives and are equal in copies."""
    weak, usual, strong = [], [], []
    for example in drawn:
        if example.images is None or any(example.prompts) or (example.rows, example.columns) != NATIVE:
            continue
        shown = (example.images.mean(dim=(2, 3)) + 1) * 127.5
        difference = (shown - example.target[:, 0]).abs().amax(dim=1)
        for weight, apart in zip(example.weights.tolist(), difference.tolist(), strict=True):
            (weak if 0 < weight < 0.4 else strong if weight >= 2 else usual if weight == 1 else []).append(apart)
    assert max(strong) < 0.01 < np.mean(usual) < 0.5 * np.mean(weak)


def test_resumed_run_keeps_its_vocabulary(tmp_path: Path) -> None:
    first = keep_tokenizers(tmp_path, (text for image in IMAGES for text in captions(image)))
    assert first["clip.vocab"]
    assert keep_tokenizers(tmp_path, ["other words"]) == first == read_tokenizers(tmp_path)


@pytest.mark.slow
def test_t5_learns_to_predict_images_from_captions() -> None:
    names = [captions(image)[0] for image in IMAGES]
    targets = torch.eye(len(names))
    teller = Teller(learn_tokenizers(names), targets.shape[1])
    optimizer = torch.optim.AdamW(teller.parameters(), lr=3e-3)
    before = teller.error(names, targets).item()
    for _ in range(60):
        descend(teller.error(names, targets), optimizer, 3e-3)
    assert teller.error(names, targets).item() < 0.3 * before
    assert not teller.text_encoder_2.shared.weight[0].any()


def test_remixed_image_has_two_halves() -> None:
    halves = remixed(np.stack([image.rgb for image in IMAGES]), seed=1)
    assert halves.shape == (6, 64, 64, 3)
    colours = {tuple(rgb[32, column].tolist()) for rgb in halves for column in (20, 44)}
    assert len(colours) > 6


def test_placed_image_is_centred_and_fills_the_shorter_side() -> None:
    rgb = placed(IMAGES[0].rgb, rows=4, columns=8)
    assert rgb.shape == (64, 128, 3)
    assert np.array_equal(rgb[:, 32:96], IMAGES[0].rgb)
    assert (rgb[:, :32] == 255).all()


@torch.no_grad()
def test_image_of_weight_zero_has_no_effect(flow: Flow) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    none = torch.zeros(2)
    noisy, t, guidance = torch.randn(2, 16, 64), torch.tensor([0.3, 0.8]), torch.tensor([1.0, 4.0])
    prompts = ["square 1", ""]
    without, weightless, shown = (
        flow.velocity(noisy, condition, t, guidance, *NATIVE)
        for condition in (
            flow.condition(None, none, prompts),
            flow.condition(images, none, prompts),
            flow.condition(images, none + 1, prompts),
        )
    )
    assert torch.allclose(without, weightless, atol=1e-5)
    assert not torch.allclose(without, shown, atol=1e-3)


@torch.no_grad()
def test_flow_computes_the_same_velocity_as_the_stock_networks(flow: Flow) -> None:
    """The stock networks have 512 text tokens, each of weight 1: padded, or zeros without a prompt."""
    prompts, images = ["square 1", ""], torch.rand(2, 3, 64, 64) * 2 - 1
    noisy, t, guidance = torch.randn(2, 16, 64), torch.tensor([0.3, 0.8]), torch.tensor([1.0, 4.0])
    ids = flow.t5_tokenizer(prompts[0], padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
    text = flow.text_encoder_2(ids).last_hidden_state
    clip_ids = flow.clip_tokenizer(prompts[0], padding="max_length", return_tensors="pt").input_ids
    pooled = flow.text_encoder(clip_ids).pooler_output
    redux = flow.image_embedder(flow.image_encoder(images).last_hidden_state).image_embeds
    context = torch.cat([torch.cat([text, torch.zeros_like(text)]), redux], dim=1)
    expected = flow.transformer(
        noisy,
        context,
        torch.cat([pooled, torch.zeros_like(pooled)]),
        t,
        FluxPipeline._prepare_latent_image_ids(1, *NATIVE, noisy.device, noisy.dtype),
        torch.zeros(context.shape[1], 3),
        guidance,
    ).sample
    velocity = flow.velocity(noisy, flow.condition(images, torch.ones(2), prompts), t, guidance, *NATIVE)
    assert torch.allclose(velocity, expected, atol=1e-4)


def test_edges_are_white_lines_on_black_between_colours() -> None:
    lines = canny(IMAGES[0].rgb[None])[0]
    assert set(np.unique(lines)) == {0, 255}
    rows, columns = lines[..., 0].nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 47, 15, 47)
    assert not lines[18:45, 18:45].any()


def test_f1_counts_edges_within_a_distance() -> None:
    asked, moved, half = (np.zeros((32, 32), np.uint8) for _ in range(3))
    asked[8], moved[10], half[8, :16] = 255, 255, 255
    assert f1(asked, moved, distance=2) == 1
    assert f1(asked, moved, distance=1) == 0
    assert f1(asked, half, distance=0) == pytest.approx(2 / 3)
    assert f1(asked, np.zeros_like(asked), distance=2) == 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
def test_untrained_controlnet_has_no_effect(flow: Flow) -> None:
    control = TrainedControlNet()
    control.start_from(flow.transformer)
    condition = flow.condition(None, torch.zeros(2), ["square 1", ""])
    given = (torch.randn(2, 16, 64), condition, torch.tensor([0.3, 0.8]), torch.tensor([1.0, 4.0]), *NATIVE)
    controlled = flow.velocity(*given, control(torch.randn(2, 16, 64), *given))
    assert torch.equal(controlled, flow.velocity(*given))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
def test_controlnet_computes_the_same_residuals_as_the_stock_network(flow: Flow) -> None:
    """The stock network has 512 text tokens, without weights."""
    torch.manual_seed(0)
    control = TrainedControlNet().eval()
    for weight in control.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    noisy, shown = torch.randn(1, 16, 64), torch.randn(1, 16, 64)
    t, guidance = torch.tensor([0.3]), torch.tensor([4.0])
    found = control(shown, noisy, flow.condition(None, torch.zeros(1), [""]), t, guidance, *NATIVE)
    weighted = found.controlnet_block_samples
    stock = new_controlnet()
    stock.load_state_dict(control.controlnet.state_dict())
    expected = stock(
        hidden_states=noisy,
        controlnet_cond=shown,
        encoder_hidden_states=torch.zeros(1, TEXT_TOKENS, CONTEXT_WIDTH),
        pooled_projections=torch.zeros(1, POOLED_WIDTH),
        timestep=t,
        guidance=guidance,
        img_ids=FluxPipeline._prepare_latent_image_ids(1, *NATIVE, noisy.device, noisy.dtype),
        txt_ids=torch.zeros(TEXT_TOKENS, 3),
    ).controlnet_block_samples
    for one, other in zip(weighted, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@torch.no_grad()
def test_untrained_adapter_has_no_effect_and_is_in_every_block(flow: Flow) -> None:
    adapted = new_transformer()
    adapted.load_state_dict(flow.transformer.state_dict())
    adapt(adapted)
    given = {
        "hidden_states": torch.randn(1, 16, 64),
        "encoder_hidden_states": torch.randn(1, 3, CONTEXT_WIDTH),
        "pooled_projections": torch.randn(1, POOLED_WIDTH),
        "timestep": torch.tensor([0.3]),
        "guidance": torch.tensor([4.0]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(3, 3),
    }
    assert torch.equal(adapted(**given).sample, flow.transformer(**given).sample)
    blocks = (*adapted.transformer_blocks, *adapted.single_transformer_blocks)
    assert all(any(".lora_A." in name for name in block.state_dict()) for block in blocks)


def test_run_logs_the_mean_loss_since_its_last_log(tmp_path: Path) -> None:
    run = TrainingRun(tmp_path)
    for step in range(5):
        run.add_loss(step, torch.tensor(float(step)), log_every=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 0.5), (4, 2.5)]
