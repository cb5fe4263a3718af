"""LoRA adapters: results match diffusers, and the base weights do not change."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_serving.conditioning.context import Context
from flux_serving.network.lora import read_adapter, summed
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from stock import embeddings, run
from tiny import CONTEXT_WIDTH, POOLED_WIDTH, make_tiny_flux, weights_of

RANK = 3
#: Layers of each kind: parts of fused projections in both kinds of blocks, unfused layers, modulation, embedders, and
#: the output layer.
LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_v",
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.0.attn.to_out.0",
    "transformer_blocks.1.ff.net.0.proj",
    "transformer_blocks.1.ff_context.net.2",
    "transformer_blocks.1.norm1.linear",
    "single_transformer_blocks.0.attn.to_k",
    "single_transformer_blocks.0.proj_mlp",
    "single_transformer_blocks.1.proj_mlp",
    "single_transformer_blocks.1.attn.to_v",
    "single_transformer_blocks.1.proj_out",
    "x_embedder",
    "context_embedder",
    "proj_out",
)
PARAMETERS = SamplingParameters(4, 6, 5, 2.0, (3,), first_step=0, end_step=5)


def sampler_inputs() -> SamplerInputs:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(4, CONTEXT_WIDTH, generator=generator)
    return SamplerInputs(Context(tokens, torch.ones(4), torch.randn(POOLED_WIDTH, generator=generator)))


@pytest.fixture(scope="module")
def flux() -> FluxPipeline:
    """A separate pipeline, because PEFT inserts its layers into the stock transformer."""
    return make_tiny_flux()


def adapter(folder: Path, flux: FluxPipeline, name: str, seed: int, layers: tuple[str, ...] = LAYERS) -> Path:
    """Write a file as diffusers saves it, with values as large as the base weights."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for layer in layers:
        stock = flux.transformer.get_submodule(layer)
        down = torch.randn(RANK, stock.in_features, generator=generator) / stock.in_features**0.5
        weights[f"transformer.{layer}.lora_A.weight"] = down
        weights[f"transformer.{layer}.lora_B.weight"] = 0.2 * torch.randn(stock.out_features, RANK, generator=generator)
    file = folder / f"{name}.safetensors"
    save_file(weights, file)
    return file


def final_latents(sampler: Sampler, transformer: Transformer | None) -> Tensor:
    (work,) = sampler.begin(PARAMETERS, sampler_inputs(), transformer)
    for _ in range(work.steps_left):
        sampler.step([work])
    return work.latents.cpu()


def stock_latents(flux: FluxPipeline, scales: dict[Path, float]) -> Tensor:
    """Returns the latents of diffusers with these adapters, loaded by PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in scales:
            flux.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=file.stem)
        flux.set_adapters([file.stem for file in scales], list(scales.values()))
        latents = run(flux, PARAMETERS, **embeddings(sampler_inputs().context))
        flux.unload_lora_weights()
    return latents


@pytest.mark.parametrize("scales", [(1.0,), (-0.5,), (0.7, 1.2)])
def test_adapters_match_diffusers(flux: FluxPipeline, tmp_path: Path, scales: tuple[float, ...]) -> None:
    files = [adapter(tmp_path, flux, f"adapter-{i}", seed=i) for i in range(len(scales))]
    expected = stock_latents(flux, dict(zip(files, scales, strict=True)))
    sampler = Sampler(weights_of(make_tiny_flux()))
    read = [read_adapter(file, sampler.transformer) for file in files]
    adapted = sampler.transformer.adapted(summed(list(zip(read, scales, strict=True))))
    latents = final_latents(sampler, adapted)
    assert (latents - expected).abs().max() < 3e-5
    assert (latents - final_latents(sampler, None)).abs().max() > 0.01


@pytest.mark.slow
def test_thousand_adapter_swaps_do_not_change_weights_or_other_images(tmp_path: Path) -> None:
    flux = make_tiny_flux()
    sampler = Sampler(weights_of(flux))

    def digest() -> str:
        weights = hashlib.sha256()
        for parameter in sampler.base.transformer.parameters():
            weights.update(parameter.numpy(force=True))
        return weights.hexdigest()

    before, plain = digest(), final_latents(sampler, None)
    read = [read_adapter(adapter(tmp_path, flux, str(i), seed=i), sampler.transformer) for i in range(3)]
    adapted = [sampler.transformer.adapted(summed([(one, 1.0)])) for one in read]
    first = [final_latents(sampler, one) for one in adapted]
    works = [sampler.begin(PARAMETERS, sampler_inputs(), one)[0] for one in (*adapted, None)]
    for swap in range(1000):
        work = works[swap % 4]
        sampler.step([work])
        if not work.steps_left:
            index = swap % 4
            assert torch.equal(work.latents.cpu(), first[index] if index < 3 else plain)
            works[index] = sampler.begin(PARAMETERS, sampler_inputs(), adapted[index] if index < 3 else None)[0]
    assert digest() == before
    assert torch.equal(final_latents(sampler, None), plain)


def test_images_with_different_adapters_do_not_share_a_step(tmp_path: Path) -> None:
    flux = make_tiny_flux()
    sampler = Sampler(weights_of(flux))
    read = read_adapter(adapter(tmp_path, flux, "one", seed=1), sampler.transformer)
    one, other = (sampler.transformer.adapted(summed([(read, 1.0)])) for _ in range(2))
    groups = [
        sampler.begin(PARAMETERS, sampler_inputs(), transformer)[0].group for transformer in (None, one, one, other)
    ]
    assert groups[1] == groups[2]
    assert len(set(groups)) == 3


def test_weights_are_in_memory_only_once(tmp_path: Path) -> None:
    """Fused and stock weights share memory, and an adapted transformer only adds its low-rank weights."""
    flux = make_tiny_flux()
    before = sum(parameter.nbytes for parameter in flux.transformer.parameters())
    transformer = Transformer(flux.transformer)
    adapted = transformer.adapted(summed([(read_adapter(adapter(tmp_path, flux, "one", seed=1), transformer), 1.0)]))
    storages = {}
    for projections in (transformer._project, adapted._project):
        for projection in projections._plain.values():
            for tensor in (projection.weight, projection.bias):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    for parameter in flux.transformer.parameters():
        storages[parameter.untyped_storage().data_ptr()] = parameter.untyped_storage().nbytes()
    assert sum(storages.values()) == before


def test_alpha_in_the_file_scales_as_in_diffusers(flux: FluxPipeline, tmp_path: Path) -> None:
    """The file has Kohya's names, with an alpha per layer."""
    stock = flux.transformer.get_submodule("transformer_blocks.0.attn.to_out.0")
    name = "lora_unet_double_blocks_0_img_attn_proj"
    weights = {
        f"{name}.lora_down.weight": torch.randn(RANK, stock.in_features),
        f"{name}.lora_up.weight": torch.randn(stock.out_features, RANK),
        f"{name}.alpha": torch.tensor(1.5),
    }
    save_file(weights, tmp_path / "kohya.safetensors")
    expected = stock_latents(flux, {tmp_path / "kohya.safetensors": 1.0})
    sampler = Sampler(weights_of(make_tiny_flux()))
    read = read_adapter(tmp_path / "kohya.safetensors", sampler.transformer)
    adapted = sampler.transformer.adapted(summed([(read, 1.0)]))
    assert (final_latents(sampler, adapted) - expected).abs().max() < 3e-5


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"transformer.nowhere.lora_A.weight": (3, 4), "transformer.nowhere.lora_B.weight": (4, 3)}, "found nowhere"),
        ({"text_encoder.q.lora_A.weight": (3, 4)}, "changes no layer"),
        ({"transformer.x_embedder.lora_A.weight": (3, 16)}, r"found x_embedder\.lora_B"),
        (
            {"transformer.x_embedder.lora_A.weight": (3, 5), "transformer.x_embedder.lora_B.weight": (32, 3)},
            r"x_embedder has shapes \[3, 5\] and \[32, 3\], expected \[rank, 16\] and \[32, rank\]",
        ),
        ({"something": (2,)}, "something is not for the transformer"),
        ({}, "changes no layer"),
    ],
)
def test_rejects_adapter_that_does_not_fit_the_transformer(
    tiny_flux: FluxPipeline, tmp_path: Path, weights: dict[str, tuple[int, ...]], words: str
) -> None:
    file = tmp_path / "wrong.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, file)
    with pytest.raises(InvalidRequest, match=words):
        read_adapter(file, Transformer(tiny_flux.transformer))


def test_rejects_file_that_is_not_safetensors(tiny_flux: FluxPipeline, tmp_path: Path) -> None:
    file = tmp_path / "wrong.safetensors"
    file.write_bytes(b"pickle")
    with pytest.raises(InvalidRequest, match="LORA='wrong' cannot be read"):
        read_adapter(file, Transformer(tiny_flux.transformer))
