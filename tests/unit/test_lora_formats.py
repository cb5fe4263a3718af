"""Formats of LoRA files: each matches stock diffusers and PEFT, or is rejected with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from test_lora import final_latents, stock_latents
from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_serving.network.lora import read_adapter, summed
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.sampler import Sampler
from tiny import make_tiny_flux, weights_of

RANK = 4
QUERY, OUT, MLP, LAST = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_out.0",
    "single_transformer_blocks.1.proj_mlp",
    "single_transformer_blocks.0.proj_out",
)
NAMES = (QUERY, OUT, MLP, LAST)


@pytest.fixture(scope="module")
def flux() -> FluxPipeline:
    """A separate pipeline, because PEFT inserts its layers into the stock transformer."""
    return make_tiny_flux()


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(weights_of(make_tiny_flux()))


def factors(flux: FluxPipeline, layer: str, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """Returns the factors down and up, with values as large as the base weights."""
    generator = torch.Generator().manual_seed(len(layer))
    base = flux.transformer.get_submodule(layer)
    base = getattr(base, "base_layer", base)
    down = torch.randn(rank, base.in_features, generator=generator) / base.in_features**0.5
    return down, 0.2 * torch.randn(base.out_features, rank, generator=generator)


def peft(flux: FluxPipeline, ranks: dict[str, int]) -> dict[str, Tensor]:
    weights = {}
    for layer, rank in ranks.items():
        down, up = factors(flux, layer, rank)
        weights |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
    return weights


def kohya(flux: FluxPipeline, layer: str, name: str, alpha: float | None = None) -> dict[str, Tensor]:
    down, up = factors(flux, layer)
    weights = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return weights if alpha is None else weights | {f"{name}.alpha": torch.tensor(alpha)}


def header(**config: Any) -> dict[str, str]:
    whole = {"r": RANK, "lora_alpha": RANK, "target_modules": ["to_q"], "bias": "none", "peft_type": "LORA"} | config
    metadata = json.dumps({f"transformer.{key}": value for key, value in whole.items()})
    return {"format": "pt", "lora_adapter_metadata": metadata}


EQUAL = dict.fromkeys(NAMES, RANK)
MIXED = {QUERY: 2, OUT: 4, MLP: 4, LAST: 8}


@pytest.mark.parametrize(
    ("ranks", "config", "expected"),
    [
        (EQUAL, {"lora_alpha": 4, "use_rslora": True}, [2, 2, 2, 2]),
        (EQUAL, {"alpha_pattern": {"to_q": 8, "to_out.0": 8, "proj_mlp": 8, "proj_out": 8}}, [2, 2, 2, 2]),
        (EQUAL, {"alpha_pattern": {"to_q": 8, "attn.to_q": 2, "single.*proj_mlp": 1}}, [2, 1, 0.25, 1]),
        (EQUAL, {"alpha_pattern": {"o_q": 8, "^proj_out": 8, LAST: 12}}, [1, 1, 1, 3]),
        (
            MIXED,
            {"rank_pattern": {"to_q": 2, "proj_out": 8}, "alpha_pattern": {"to_q": 8}, "use_rslora": True},
            [8 / 2**0.5, 2, 2, 4 / 8**0.5],
        ),
    ],
)
def test_file_with_metadata_is_scaled_as_by_peft(
    flux: FluxPipeline, sampler: Sampler, tmp_path: Path, ranks: dict[str, int], config: Any, expected: list[float]
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_file(peft(flux, ranks), file, header(**config))
    read = read_adapter(file, sampler.transformer)
    assert [read[name].scale for name in NAMES] == pytest.approx(expected)
    _assert_as_diffusers(flux, sampler, file)


def formats(flux: FluxPipeline) -> dict[str, dict[str, Tensor]]:
    prefix = "lora_unet_double_blocks_0_img_attn"
    qkv_down, qkv_up = factors(flux, QUERY)
    qkv = {f"{prefix}_qkv.lora_down.weight": qkv_down, f"{prefix}_qkv.lora_up.weight": qkv_up.repeat(3, 1)}
    zeros = torch.zeros(32)
    comfy = "diffusion_model.double_blocks.0.img_attn.proj"
    block = "double_blocks.0.processor"
    xlabs_down, xlabs_up = factors(flux, OUT)
    return {
        "PEFT": peft(flux, EQUAL),
        "PEFT, different ranks": peft(flux, MIXED),
        "PEFT, one alpha for all": peft(flux, EQUAL) | {f"transformer.{QUERY}.alpha": torch.tensor(8.0)},
        "PEFT, different alphas": peft(flux, MIXED)
        | {f"transformer.{name}.alpha": torch.tensor(float(2 + i)) for i, name in enumerate(NAMES)},
        "Kohya": kohya(flux, OUT, f"{prefix}_proj", alpha=1.0),
        "Kohya, without alpha": kohya(flux, OUT, f"{prefix}_proj"),
        "Kohya, fused": qkv | {f"{prefix}_qkv.alpha": torch.tensor(2.0)},
        "Kohya, biases that do not change": kohya(flux, OUT, f"{prefix}_proj", 1.0) | {f"{prefix}_proj.diff_b": zeros},
        "ComfyUI": kohya(flux, OUT, comfy, 2.0),
        "names of PEFT, suffixes of Kohya": kohya(flux, OUT, f"transformer.{OUT}"),
        "mixture": kohya(flux, OUT, "lora_transformer_transformer_blocks_0_attn_to_out_0", 1.0),
        "XLabs": {f"{block}.proj_lora1.down.weight": xlabs_down, f"{block}.proj_lora1.up.weight": xlabs_up},
    }


@pytest.mark.parametrize("name", list(formats(make_tiny_flux())))
def test_every_format_matches_diffusers(flux: FluxPipeline, sampler: Sampler, tmp_path: Path, name: str) -> None:
    file = tmp_path / "adapter.safetensors"
    save_file({key: value.contiguous().clone() for key, value in formats(flux)[name].items()}, file)
    _assert_as_diffusers(flux, sampler, file)


def _assert_as_diffusers(flux: FluxPipeline, sampler: Sampler, file: Path) -> None:
    adapted = sampler.transformer.adapted(summed([(read_adapter(file, sampler.transformer), 1.0)]))
    latents, expected = final_latents(sampler, adapted), stock_latents(flux, {file: 1.0})
    assert (latents - expected).abs().max() < 3e-5
    assert (latents - final_latents(sampler, None)).abs().max() > 0.001


@pytest.mark.parametrize(
    ("more", "config", "words"),
    [
        ({"text_encoder.q_proj.lora_B.weight": 1}, None, "also changes the text encoder.*text_encoder.q_proj.*Remove"),
        ({"lora_te1_text_model.lora_up.weight": 1}, None, "also changes the text encoder.*lora_te1_text_model"),
        ({f"transformer.{QUERY}.lora_magnitude_vector": 1}, None, "has DoRA magnitudes"),
        ({f"transformer.{QUERY}.dora_scale": 1}, None, "has DoRA magnitudes"),
        ({"transformer.x_embedder.lokr_w1": 1}, None, "has LoKr factors"),
        ({f"transformer.{QUERY}.lora_B.bias": 1}, None, "has biases, which are unsupported"),
        ({"lora_unet_img_in.diff_b": 1}, None, "changes biases or norms.*lora_unet_img_in.diff_b"),
        ({"transformer.transformer_blocks.0.attn.norm_q.weight": 1}, None, "found .*norm_q.weight"),
        ({"transformer.nowhere.alpha": 1}, None, "found nowhere.alpha"),
        ({"single_blocks.0.lora_down.weight": 1}, None, "single_blocks.0.lora_down.weight is not read by diffusers"),
        ({f"transformer.{QUERY}.lora_A.weight": float("nan")}, None, "has non-finite values: .*to_q"),
        ({f"transformer.{QUERY}.alpha": 1}, {}, "has alpha keys as well as lora_adapter_metadata"),
        ({}, {"r": 8}, "has rank 8 for .*transformer_blocks.* in its metadata, but rank 4 in its weights"),
        ({}, {"use_dora": True}, "has unsupported settings in its lora_adapter_metadata: use_dora=True"),
        ({}, {"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({}, {"alpha_pattern": {"(": 1}}, "has invalid lora_adapter_metadata"),
        ({}, {"lora_alpha": "much"}, "has invalid lora_adapter_metadata"),
        ({}, {"lora_alpha": 1e999}, "has alpha inf"),
    ],
)
def test_rejects_unsupported_and_ignored_keys_by_name(
    flux: FluxPipeline, sampler: Sampler, tmp_path: Path, more: dict[str, float], config: Any, words: str
) -> None:
    weights = peft(flux, EQUAL)
    for key, value in more.items():
        weights[key] = torch.full_like(weights.get(key, torch.ones(4)), value)
    file = tmp_path / "adapter.safetensors"
    save_file(weights, file, None if config is None else header(**config))
    with pytest.raises(InvalidRequest, match=f"^LORA='adapter' .*{words}"):
        read_adapter(file, sampler.transformer)


def test_text_encoder_weights_without_effect_are_ignored(flux: FluxPipeline, sampler: Sampler, tmp_path: Path) -> None:
    """Some training tools write them although the text encoder was not trained."""
    file = tmp_path / "adapter.safetensors"
    save_file(
        kohya(flux, OUT, "lora_unet_double_blocks_0_img_attn_proj", 1.0)
        | kohya(flux, OUT, "lora_te1_text_model_encoder_layers_0_mlp_fc1", 1.0)
        | {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(32, RANK)},
        file,
    )
    assert list(read_adapter(file, sampler.transformer)) == [OUT]


def test_rejects_kohya_layer_that_diffusers_skips(flux: FluxPipeline, tmp_path: Path, tiny_flux: FluxPipeline) -> None:
    file = tmp_path / "adapter.safetensors"
    save_file(kohya(flux, "x_embedder", "lora_unet_img_in", 1.0), file)
    with pytest.raises(InvalidRequest, match=r"x_embedder.*, x_embedder.* are not for the"):
        read_adapter(file, Transformer(tiny_flux.transformer))
