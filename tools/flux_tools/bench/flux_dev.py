"""FLUX.1-dev's networks on torch's `meta` device, without weights, to calculate their memory use.

Source of the dimensions: the published configurations of black-forest-labs/FLUX.1-dev and FLUX.1-Redux-dev.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers import AutoencoderKL, FluxControlNetModel, FluxTransformer2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from flux_serving.network.lora import Adapter
from flux_serving.network.projections import LowRank
from flux_serving.network.transformer import Transformer
from flux_serving.network.weights import BaseWeights

DTYPE = torch.bfloat16

#: Double and single blocks of the example ControlNet, since ControlNets differ in size.
CONTROLNET_BLOCKS = (5, 10)
#: Rank of the example adapter.
ADAPTER_RANK = 16
_TRANSFORMER = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
_Network = TypeVar("_Network", bound=nn.Module)


def prior() -> dict[str, nn.Module]:
    """Return the networks by their names in a `FluxPriorReduxPipeline`."""
    with torch.device("meta"):
        vision = SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        )
        clip = CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
        )
        t5 = T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
        return {
            "image_encoder": _frozen(SiglipVisionModel(vision)),
            "image_embedder": _frozen(ReduxImageEncoder(redux_dim=1152, txt_in_features=4096)),
            "text_encoder": _frozen(CLIPTextModel(clip)),
            "text_encoder_2": _frozen(T5EncoderModel(t5)),
        }


def vae() -> AutoencoderKL:
    with torch.device("meta"):
        return _frozen(
            AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=16,
                sample_size=1024,
                use_quant_conv=False,
                use_post_quant_conv=False,
                scaling_factor=0.3611,
                shift_factor=0.1159,
            )
        )


def transformer(**changed: int) -> FluxTransformer2DModel:
    """Return a transformer. changed: configuration values that differ from FLUX.1-dev."""
    with torch.device("meta"):
        return _frozen(FluxTransformer2DModel(**_TRANSFORMER | changed))


def base() -> BaseWeights:
    """Return the weights of `flux_base`, with a ControlNet of CONTROLNET_BLOCKS."""
    double, single = CONTROLNET_BLOCKS
    with torch.device("meta"):
        controlnet = FluxControlNetModel(**_TRANSFORMER | {"num_layers": double, "num_single_layers": single})
    return BaseWeights(
        name="FLUX.1-dev",
        transformer=transformer(),
        vae=vae(),
        image_processor=VaeImageProcessor(),
        scheduler_config={},
        vae_scale_factor=8,
        native_side=1024,
        default_steps=28,
        controlnet=_frozen(controlnet),
    )


def adapter(transformer: Transformer) -> Adapter:
    """Return an adapter of ADAPTER_RANK on every attention layer."""
    additions = {}
    for name in transformer.layers:
        if ".attn." in name:
            layer = transformer.stock.get_submodule(name)
            down, up = torch.empty(ADAPTER_RANK, layer.in_features), torch.empty(layer.out_features, ADAPTER_RANK)
            additions[name] = LowRank(transformer.hold(down), transformer.hold(up))
    return additions


def _frozen(network: _Network) -> _Network:
    return network.to(DTYPE).requires_grad_(False)
