"""The text side of the demo checkpoint: tiny CLIP and T5 with tokenizers of their own, in the stock classes.

T5 has no relative positions here (its table of biases is zero and stays so). Then all the padding of a prompt is alike,
so 512 tokens of T5 are the prompt's own and one padding token that weighs the rest: training computes a dozen tokens
where serving computes 512, with the same result. The order of the words is CLIP's to see.

The padding starts from a zero embedding and keeps it. So all that it holds is what it took from the prompt's own
tokens, which the norms make as large as they are; otherwise 500 tokens that say nothing would drown the few that do.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from flux_tools.demo.architecture import CONTEXT_WIDTH, POOLED_WIDTH, TEXT_TOKENS

CLIP_TOKENS = 77
T5_EPSILON = 1e-6
#: CLIP's own is its end of text, at which it would stop reading.
UNKNOWN = "<|unknown|>"
#: T5's padding token.
PADDING = 0


def new_clip(vocabulary: int) -> CLIPTextModel:
    """One layer at the stock width, because its norm subtracts a mean, which padding with zeros would change."""
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
    """The weights as they have to be once zeros pad them to this width: the norms' means become smaller."""
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
