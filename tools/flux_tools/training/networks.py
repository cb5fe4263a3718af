"""The networks at the compact widths: the flow (encoders, embedder and transformer) and the ControlNet."""

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
    """The context of the transformer.

    tokens: (n, length, width). weights: (n, length), 0 for absent tokens. pooled: (n, 768).
    """

    tokens: Tensor
    weights: Tensor
    pooled: Tensor


class Flow(nn.Module):
    def __init__(self, tokenizers: dict[str, str]) -> None:
        """tokenizers: result of `learn_tokenizers`."""
        super().__init__()
        self.clip_tokenizer: CLIPTokenizer = clip_tokenizer(tokenizers)
        self.t5_tokenizer: T5TokenizerFast = t5_tokenizer(tokenizers)
        self.text_encoder = new_clip(len(self.clip_tokenizer))
        self.text_encoder_2 = new_t5(len(self.t5_tokenizer))
        self.image_encoder = new_image_encoder()
        self.image_embedder = new_image_embedder()
        self.transformer = new_transformer()

    def condition(self, images: Tensor | None, weights: Tensor, prompts: Sequence[str]) -> Condition:
        """Encode images and prompts.

        images: (n, 3, 64, 64) in -1..1. weights: of the images, (n,). prompts: "" for none, which is 512 zero tokens.
        """
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
        """Predict the velocity. Returns the shape of `noisy`.

        noisy: (n, rows * columns, 64) packed latents. t: (n,) in 0..1. control: residuals of a `TrainedControlNet`.
        """
        velocity: Tensor = self.transformer(
            **_inputs(noisy, condition, t, guidance, rows, columns),
            **(control or {}),
            joint_attention_kwargs={"attention_mask": _bias(condition, noisy)},
            return_dict=False,
        )[0]
        return velocity


class TrainedControlNet(nn.Module):
    """The ControlNet. The stock `forward` passes no attention mask to its blocks, so hooks add the tokens' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.controlnet = new_controlnet()
        self._bias = torch.zeros(())
        for block in (*self.controlnet.transformer_blocks, *self.controlnet.single_transformer_blocks):
            block.register_forward_pre_hook(self._with_bias, with_kwargs=True)

    def _with_bias(self, block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return given, named | {"joint_attention_kwargs": {"attention_mask": self._bias}}

    def start_from(self, transformer: FluxTransformer2DModel) -> None:
        """Copy the blocks and embedders of the transformer. The other layers stay zero, so the residuals are zero."""
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
        """Return the residuals for `Flow.velocity`, which describes the other arguments.

        shown: packed latents of the edges, the shape of `noisy`.
        """
        self._bias = _bias(condition, noisy)
        return self.controlnet(controlnet_cond=shown, **_inputs(noisy, condition, t, guidance, rows, columns))


def _inputs(
    noisy: Tensor, condition: Condition, t: Tensor, guidance: Tensor, rows: int, columns: int
) -> dict[str, Tensor]:
    """Return the arguments that the transformer and the ControlNet share."""
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
    """Return the bias of the attention logits, (n, 1, 1, context tokens + image tokens)."""
    return pad(condition.weights.log(), (0, noisy.shape[1]))[:, None, None, :]


def t5_tokens(encoder: T5EncoderModel, tokenizer: T5TokenizerFast, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Encode prompts with T5 as if padded to 512 tokens, but with a single padding token each.

    Returns the states, (prompts, tokens, width), and the weight of each token, (prompts, tokens): 1 for a prompt's
    tokens, the number of padding tokens for the last token, and 0 for tokens that a shorter prompt lacks.
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
