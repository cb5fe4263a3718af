"""The demo's text encoders: a tiny CLIP and a tiny T5 in the stock classes, each with its own tokenizer.

This T5 has no relative positions: its table of biases is zero and is not trained. Therefore all padding tokens of a
prompt are equal, and one padding token with the weight of all of them replaces them. Training computes about a dozen
tokens where serving computes 512, with the same result. Only CLIP sees the order of the words.

The embedding of the padding token is zero and is not trained, so the padding carries only information that attention
copies from the prompt's tokens. The norms scale it up to their size. With an embedding of their own, 500 uninformative
tokens would outweigh the prompt.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from flux_tools.demo.architecture import CONTEXT_WIDTH, POOLED_WIDTH, TEXT_TOKENS

CLIP_TOKENS = 77
T5_EPSILON = 1e-6
#: The default of CLIPTokenizer is the end of text, where CLIP would stop reading.
UNKNOWN = "<|unknown|>"
#: Id of T5's padding token.
PADDING = 0


def new_clip(vocabulary: int) -> CLIPTextModel:
    """Return a CLIP of one layer.

    It has the stock width, because padding with zeros would change the mean that its norm subtracts.
    """
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=POOLED_WIDTH,
            intermediate_size=POOLED_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=12,
            max_position_embeddings=CLIP_TOKENS,
            projection_dim=POOLED_WIDTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def new_t5(vocabulary: int, width: int = CONTEXT_WIDTH) -> T5EncoderModel:
    """Return a T5 of two layers. Its norms divide by a root mean square, so their epsilon depends on the width."""
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=32,
            num_heads=4,
            d_ff=256,
            num_layers=2,
            dropout_rate=0.0,
            layer_norm_epsilon=T5_EPSILON * CONTEXT_WIDTH / width,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    embedding = encoder.encoder.embed_tokens
    embedding.padding_idx = PADDING
    torch.nn.init.zeros_(embedding.weight[PADDING].detach())
    biases = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    torch.nn.init.zeros_(biases)
    biases.requires_grad_(False)
    return encoder


def at_width(t5_weights: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Scale the weights of the norms for padding to this width, because zeros reduce the means in the norms."""
    factor = (CONTEXT_WIDTH / width) ** 0.5
    return {name: weight * factor if "layer_norm" in name else weight for name, weight in t5_weights.items()}


def clip_tokenizer(files: dict[str, str]) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=json.loads(files["clip.vocab"]),
        merges=[tuple(merge) for merge in json.loads(files["clip.merges"])],
        unk_token=UNKNOWN,
        model_max_length=CLIP_TOKENS,
    )


def t5_tokenizer(files: dict[str, str]) -> T5TokenizerFast:
    return T5TokenizerFast(
        vocab=[(piece, score) for piece, score in json.loads(files["t5.vocab"])],
        extra_ids=0,
        model_max_length=TEXT_TOKENS,
    )
