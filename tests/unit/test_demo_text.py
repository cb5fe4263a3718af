"""The demo's text encoders: training computes in a dozen tokens what stock T5 computes in 512."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from flux_tools.demo.architecture import CONTEXT_WIDTH, TEXT_TOKENS
from flux_tools.demo.asset import _load_padded
from flux_tools.demo.images import DemoImage
from flux_tools.demo.text import PADDING, at_width, clip_tokenizer, new_t5, t5_tokenizer
from flux_tools.training.captions import captions, paraphrase
from flux_tools.training.networks import t5_tokens
from flux_tools.training.vocabulary import learn_tokenizers

CAPTIONS = [
    "red apple",
    "green apple",
    "smiling face with sunglasses",
    "a house with a garden",
    "clock face two oclock",
]
WIDE = 4 * CONTEXT_WIDTH


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return learn_tokenizers(CAPTIONS)


@torch.no_grad()
def test_a_dozen_weighted_tokens_equal_512_tokens_of_the_stock_encoder(files: dict[str, str]) -> None:
    torch.manual_seed(0)
    tokenizer = t5_tokenizer(files)
    compact, stock = new_t5(len(tokenizer)).eval(), new_t5(len(tokenizer), WIDE).eval()
    _load_padded(stock, at_width(compact.state_dict(), WIDE))
    prompts = ["red apple", "smiling face with sunglasses"]
    states, weights = t5_tokens(compact, tokenizer, prompts)
    ids = tokenizer(prompts, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
    expected = stock(ids).last_hidden_state
    assert not expected[..., CONTEXT_WIDTH:].any()
    assert weights.sum(dim=1).tolist() == [TEXT_TOKENS, TEXT_TOKENS]
    for row, prompt in enumerate(prompts):
        own = len(tokenizer(prompt).input_ids)
        assert weights[row, -1] == TEXT_TOKENS - own
        assert torch.allclose(states[row, :own], expected[row, :own, :CONTEXT_WIDTH], atol=1e-5)
        assert torch.allclose(states[row, -1], expected[row, own:, :CONTEXT_WIDTH], atol=1e-5)
    assert states[0, :2].std() > 0.1


def test_padding_depends_on_the_prompt_and_its_embedding_is_not_trained(files: dict[str, str]) -> None:
    torch.manual_seed(0)
    tokenizer = t5_tokenizer(files)
    encoder = new_t5(len(tokenizer))
    (red, green), _ = t5_tokens(encoder, tokenizer, ["red apple", "green apple"])
    assert (red[-1] - green[-1]).detach().abs().mean() > 0.1
    red.sum().backward()
    gradient = encoder.encoder.embed_tokens.weight.grad
    assert not gradient[PADDING].any()
    assert gradient.any()


def test_tokenizers_do_not_change_when_saved_and_loaded_as_in_stock_pipelines(
    files: dict[str, str], tmp_path: Path
) -> None:
    for name, tokenizer in (("clip", clip_tokenizer(files)), ("t5", t5_tokenizer(files))):
        tokenizer.save_pretrained(tmp_path / name)
        loaded = AutoTokenizer.from_pretrained(tmp_path / name)
        for text in (*CAPTIONS, "Red  APPLE, xylophone", ""):
            assert loaded(text).input_ids == tokenizer(text).input_ids
        assert loaded.model_max_length == tokenizer.model_max_length


def test_captions_and_paraphrase_of_an_image() -> None:
    image = DemoImage("RED APPLE", "1F34E", "1F34E", np.zeros((64, 64, 3), np.uint8), ("apple",), "food-fruit")
    assert captions(image) == [
        *("red apple", "a red apple", "red apple food fruit"),
        *("apple", "an apple", "apple food fruit"),
        "food fruit",
    ]
    assert paraphrase(image) == "apple red"
