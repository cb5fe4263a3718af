"""The text side of the demo checkpoint: tiny CLIP and T5 with tokenizers of their own, in the stock classes.

T5 has no relative positions here (its table of biases is zero and stays so). Then all the padding of a prompt is alike,
so 512 tokens of T5 are the prompt's own and one padding token that weighs the rest: training computes a dozen tokens
where serving computes 512, with the same result. The order of the words is CLIP's to see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

#: CLIP's is FluxPriorReduxPipeline's own; a prompt's T5 tokens, padding included, are what FluxPipeline asks for.
CLIP_WIDTH, CLIP_TOKENS, T5_TOKENS = 768, 77, 512
#: T5's width as trained; it is padded with zeros to the context's width.
T5_WIDTH, STOCK_T5_WIDTH = 128, 4096
T5_EPSILON = 1e-6
VOCABULARY = 2048


def new_clip(vocabulary: int) -> CLIPTextModel:
    """One layer at the stock width, because its norm subtracts a mean, which padding with zeros would change."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=CLIP_WIDTH,
            intermediate_size=CLIP_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=12,
            max_position_embeddings=CLIP_TOKENS,
            projection_dim=CLIP_WIDTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def new_t5(vocabulary: int, width: int = T5_WIDTH) -> T5EncoderModel:
    """Two layers. The norms divide by the root of a mean over the width, so their epsilon goes with it."""
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=32,
            num_heads=4,
            d_ff=256,
            num_layers=2,
            dropout_rate=0.0,
            layer_norm_epsilon=T5_EPSILON * T5_WIDTH / width,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    biases = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    torch.nn.init.zeros_(biases)
    biases.requires_grad_(False)
    return encoder


def clip_tokenizer(files: dict[str, str]) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=json.loads(files["clip.vocab"]),
        merges=[tuple(merge) for merge in json.loads(files["clip.merges"])],
        unk_token="<|endoftext|>",
        model_max_length=CLIP_TOKENS,
    )


def t5_tokenizer(files: dict[str, str]) -> T5TokenizerFast:
    return T5TokenizerFast(
        vocab=[(piece, score) for piece, score in json.loads(files["t5.vocab"])],
        extra_ids=0,
        model_max_length=T5_TOKENS,
    )


def learn_tokenizers(captions: Iterable[str]) -> dict[str, str]:
    """Vocabularies as JSON, by name: what `clip_tokenizer` and `t5_tokenizer` are made from."""
    corpus = sorted(captions)
    clip = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    clip.pre_tokenizer = pre_tokenizers.Whitespace()
    clip.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    t5 = Tokenizer(models.Unigram())
    t5.normalizer = normalizers.Lowercase()
    t5.pre_tokenizer = pre_tokenizers.Metaspace()
    t5.train_from_iterator(
        corpus,
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    clip_model, t5_model = (json.loads(tokenizer.to_str())["model"] for tokenizer in (clip, t5))
    return {
        "clip.vocab": json.dumps(clip_model["vocab"]),
        "clip.merges": json.dumps(clip_model["merges"]),
        "t5.vocab": json.dumps(t5_model["vocab"]),
    }


def t5_tokens(encoder: T5EncoderModel, tokenizer: T5TokenizerFast, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What T5 makes of prompts that are padded to 512, in as few tokens as they need.

    Returns (prompts, tokens, width), and the weight of each token, (prompts, tokens): 1, of the last one what the
    padding weighs, and 0 for what pads a shorter prompt of this batch.
    """
    ids = [tokenizer(prompt, truncation=True, max_length=T5_TOKENS - 1)["input_ids"] for prompt in prompts]
    longest = max(map(len, ids))
    padded = torch.full((len(ids), longest + 1), tokenizer.pad_token_id)
    weights = torch.zeros(len(ids), longest + 1)
    for row, own in enumerate(ids):
        padded[row, : len(own)] = torch.tensor(own)
        weights[row, : len(own)] = 1
        weights[row, -1] = T5_TOKENS - len(own)
    states = encoder(input_ids=padded, attention_mask=weights.log()[:, None, None, :]).last_hidden_state
    return states, weights
