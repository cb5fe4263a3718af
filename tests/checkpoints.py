"""A checkpoint with random weights for tests, whose sizes all differ from those of the demo checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from flux_serving.settings import Checkpoints
from tiny import TINY

WORDS = ("[PAD]", "[START]", "[END]", "[UNK]", "a", "red", "green", "blue", "apple", "tree", "house", "of", "with")
PAD, START, END, UNKNOWN = range(4)


def make_random_checkpoint(folder: Path) -> Checkpoints:
    """Save a checkpoint with different widths and image size, VAE factor 4, text encoders and no guidance."""
    torch.manual_seed(5)
    base = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=1.0, base_shift=0.4, max_shift=1.3),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            latent_channels=8,
            norm_num_groups=4,
            sample_size=48,
            scaling_factor=0.7,
            shift_factor=0.12,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS),
                hidden_size=768,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=16,
                bos_token_id=START,
                eos_token_id=END,
                pad_token_id=PAD,
            )
        ),
        tokenizer=_tokenizer(max_length=16),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(WORDS), d_model=4096, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=PAD)
        ),
        tokenizer_2=_tokenizer(max_length=512),
        transformer=FluxTransformer2DModel(
            **TINY
            | {
                "in_channels": 32,
                "num_layers": 1,
                "num_attention_heads": 3,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "guidance_embeds": False,
            }
        ),
    )
    redux = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=42,
                patch_size=14,
                vision_use_head=False,
            )
        ),
        feature_extractor=SiglipImageProcessor(size={"height": 42, "width": 42}),
        image_embedder=ReduxImageEncoder(redux_dim=32, txt_in_features=4096),
    )
    # Without this, image tokens hardly affect the result of untrained weights, and a wrong context could go unnoticed.
    for name, parameter in base.transformer.named_parameters():
        if ".norm" in name and name.endswith("linear.bias"):
            parameter.data.add_(1.0)
    redux.image_embedder.redux_down.weight.data.mul_(50)
    base.save_pretrained(folder / "base")
    redux.save_pretrained(folder / "redux")
    return Checkpoints(folder / "base", folder / "redux")


def _tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[START] $A [END]", special_tokens=[("[START]", START), ("[END]", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        bos_token="[START]",
        eos_token="[END]",
        unk_token="[UNK]",
        pad_token="[PAD]",
    )
