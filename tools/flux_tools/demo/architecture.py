"""The networks at two widths: compact for training, and stock as diffusers' FLUX pipelines expect them.

The pipelines hard-code the stock widths (context 4096, embedder 12288). `asset.py` pads the compact weights with zeros
to these widths, which changes no product.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, FluxControlNetModel, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel

CONTEXT_WIDTH, STOCK_CONTEXT_WIDTH = 128, 4096
#: Hard-coded in FluxPriorReduxPipeline.
POOLED_WIDTH = 768

#: Text tokens of the stock pipeline: the prompt and its padding; without a prompt, zeros.
TEXT_TOKENS = 512

#: Source: scheduler_config.json of FLUX.1-dev.
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
    """Return a VAE of FLUX's geometry: factor 8, 16 latent channels, no quant convolutions. 1.1 M parameters."""
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
    """Return the transformer, with 5 M parameters at the compact widths."""
    return FluxTransformer2DModel(**_flux(context_width))


def new_controlnet(context_width: int = CONTEXT_WIDTH) -> FluxControlNetModel:
    """Return a ControlNet with as many blocks as the transformer, and 5.5 M parameters at the compact widths."""
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
    """Return an encoder of 16 patches of 16x16 pixels, with 0.6 M parameters.

    It lacks the pooling head, which Redux does not use.
    """
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
