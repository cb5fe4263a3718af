"""What the flow loss trains, as one module: towers, embedder and transformer, at the compact widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.controlnets.controlnet_flux import FluxControlNetOutput
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from flux_tools.demo.architecture import (
    CONTEXT_WIDTH,
    POOLED_WIDTH,
    TEXT_TOKENS,
    new_controlnet,
    new_image_embedder,
    new_image_encoder,
    new_transformer,
)
from flux_tools.demo.text import clip_tokenizer, new_clip, new_t5, t5_tokenizer


@dataclass(frozen=True)
class Condition:
    """tokens: (n, length, width). weights: (n, length), 0 for what is not there. pooled: (n, 768)."""

    tokens: Tensor
    weights: Tensor
    pooled: Tensor


class Flow(nn.Module):
    def __init__(self, tokenizers: dict[str, str]) -> None:
        """tokenizers: of `learn_tokenizers`."""
        super().__init__()
        self.clip_tokenizer: CLIPTokenizer = clip_tokenizer(tokenizers)
        self.t5_tokenizer: T5TokenizerFast = t5_tokenizer(tokenizers)
        self.text_encoder = new_clip(len(self.clip_tokenizer))
        self.text_encoder_2 = new_t5(len(self.t5_tokenizer))
        self.image_encoder = new_image_encoder()
        self.image_embedder = new_image_embedder()
        self.transformer = new_transformer()

    def condition(self, images: Tensor | None, weights: Tensor, prompts: Sequence[str]) -> Condition:
        """images: (n, 3, 64, 64) in -1..1, of these weights, (n,). prompts: "" for none, which is 512 zero tokens."""
        text, text_weights, pooled = self._text(prompts)
        if images is None:
            return Condition(text, text_weights, pooled)
        hidden = self.image_encoder(pixel_values=images).last_hidden_state
        tokens = self.image_embedder(hidden).image_embeds
        image_weights = weights[:, None].expand(-1, tokens.shape[1])
        return Condition(torch.cat([text, tokens], dim=1), torch.cat([text_weights, image_weights], dim=1), pooled)

    def _text(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [row for row, prompt in enumerate(prompts) if prompt]
        pooled = torch.zeros(len(prompts), POOLED_WIDTH)
        if not rows:
            empty = torch.zeros(len(prompts), 1, CONTEXT_WIDTH)
            return empty, torch.full_like(empty[..., 0], TEXT_TOKENS), pooled
        given = [prompts[row] for row in rows]
        states, state_weights = t5_tokens(self.text_encoder_2, self.t5_tokenizer, given)
        tokens = states.new_zeros(len(prompts), *states.shape[1:])
        weights = states.new_zeros(len(prompts), states.shape[1])
        weights[:, -1] = TEXT_TOKENS
        index = torch.tensor(rows)
        ids = self.clip_tokenizer(given, padding=True, truncation=True, return_tensors="pt").input_ids
        return (
            tokens.index_put((index,), states),
            weights.index_put((index,), state_weights),
            pooled.index_put((index,), self.text_encoder(input_ids=ids).pooler_output),
        )

    def velocity(
        self,
        noisy: Tensor,
        condition: Condition,
        t: Tensor,
        guidance: Tensor,
        rows: int,
        columns: int,
        control: FluxControlNetOutput | None = None,
    ) -> Tensor:
        """noisy: (n, rows * columns, 64) packed latents. t: (n,) in 0..1. Returns the shape of `noisy`.

        control: what a `TrainedControlNet` adds to the transformer's blocks.
        """
        velocity: Tensor = self.transformer(
            **_inputs(noisy, condition, t, guidance, rows, columns),
            **(control or {}),
            joint_attention_kwargs={"attention_mask": _bias(condition, noisy)},
            return_dict=False,
        )[0]
        return velocity


class TrainedControlNet(nn.Module):
    """The ControlNet. Its stock forward passes no mask on to its blocks, so that they take the tokens' weights here."""

    def __init__(self) -> None:
        super().__init__()
        self.controlnet = new_controlnet()
        self._bias = torch.zeros(())
        for block in (*self.controlnet.transformer_blocks, *self.controlnet.single_transformer_blocks):
            block.register_forward_pre_hook(self._with_bias, with_kwargs=True)

    def _with_bias(self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return given, named | {"joint_attention_kwargs": {"attention_mask": self._bias}}

    def start_from(self, transformer: FluxTransformer2DModel) -> None:
        """Take over its blocks and embedders; what is the ControlNet's own stays zero, so that it adds nothing yet."""
        self.controlnet.load_state_dict(transformer.state_dict(), strict=False)

    def forward(
        self,
        shown: Tensor,
        noisy: Tensor,
        condition: Condition,
        t: Tensor,
        guidance: Tensor,
        rows: int,
        columns: int,
    ) -> FluxControlNetOutput:
        """shown: packed latents of the edges, the shape of `noisy`. The rest is as for `Flow.velocity`."""
        self._bias = _bias(condition, noisy)
        return self.controlnet(controlnet_cond=shown, **_inputs(noisy, condition, t, guidance, rows, columns))


def _inputs(
    noisy: Tensor, condition: Condition, t: Tensor, guidance: Tensor, rows: int, columns: int
) -> dict[str, Tensor]:
    """What the transformer and the ControlNet both take."""
    return {
        "hidden_states": noisy,
        "encoder_hidden_states": condition.tokens,
        "pooled_projections": condition.pooled,
        "timestep": t,
        "guidance": guidance,
        "img_ids": FluxPipeline._prepare_latent_image_ids(1, rows, columns, noisy.device, noisy.dtype),
        "txt_ids": noisy.new_zeros(condition.tokens.shape[1], 3),
    }


def _bias(condition: Condition, noisy: Tensor) -> Tensor:
    """(n, 1, 1, context tokens and image tokens), to add to the logits of attention."""
    return pad(condition.weights.log(), (0, noisy.shape[1]))[:, None, None, :]


def t5_tokens(encoder: T5EncoderModel, tokenizer: T5TokenizerFast, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What T5 makes of prompts that are padded to 512, in as few tokens as they need.

    Returns (prompts, tokens, width), and the weight of each token, (prompts, tokens): 1, of the last one what the
    padding weighs, and 0 for what pads a shorter prompt of this batch.
    """
    ids = [tokenizer(prompt, truncation=True, max_length=TEXT_TOKENS - 1)["input_ids"] for prompt in prompts]
    longest = max(map(len, ids))
    padded = torch.full((len(ids), longest + 1), tokenizer.pad_token_id)
    weights = torch.zeros(len(ids), longest + 1)
    for row, own in enumerate(ids):
        padded[row, : len(own)] = torch.tensor(own)
        weights[row, : len(own)] = 1
        weights[row, -1] = TEXT_TOKENS - len(own)
    states = encoder(input_ids=padded, attention_mask=weights.log()[:, None, None, :]).last_hidden_state
    return states, weights
