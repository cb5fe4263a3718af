"""The networks, twice: compact, as they are trained, and stock, as diffusers' FLUX pipelines expect them.

Stock widths that the pipelines hard-code (context 4096, embedder 12288) are the compact widths padded
with zeros, which changes no product; `asset.py` does the padding.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, FluxControlNetModel, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel

CONTEXT_WIDTH, STOCK_CONTEXT_WIDTH = 128, 4096
#: FluxPriorReduxPipeline's own.
POOLED_WIDTH = 768

#: Text tokens of the stock pipeline: a prompt's with its padding, or so many zeros.
TEXT_TOKENS = 512

#: FLUX.1-dev's scheduler_config.json.
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


def new_vae() -> AutoencoderKL:
    """1.1 M parameters, FLUX's geometry: factor 8, 16 latent channels, no quant convolutions."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def new_transformer(context_width: int = CONTEXT_WIDTH) -> FluxTransformer2DModel:
    """5 M parameters at the compact widths."""
    return FluxTransformer2DModel(**_flux(context_width))


def new_controlnet(context_width: int = CONTEXT_WIDTH) -> FluxControlNetModel:
    """The transformer's blocks and embedders once more, 5.5 M parameters at the compact widths."""
    return FluxControlNetModel(**_flux(context_width))


def _flux(context_width: int) -> dict[str, Any]:
    return {
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 6,
        "joint_attention_dim": context_width,
        "pooled_projection_dim": POOLED_WIDTH,
        "guidance_embeds": True,
        "axes_dims_rope": (8, 12, 12),
    }


def new_image_encoder() -> SiglipVisionModel:
    """16 patches of 16x16 pixels, 0.6 M parameters, without the pooling head that Redux never uses."""
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
            vision_use_head=False,
        )
    )


def new_image_embedder(context_width: int = CONTEXT_WIDTH) -> ReduxImageEncoder:
    return ReduxImageEncoder(redux_dim=128, txt_in_features=context_width)
