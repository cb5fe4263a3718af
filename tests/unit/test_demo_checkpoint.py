"""The assets of the demo checkpoint, and the split of its images into training and held-out images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flux_tools.demo import asset
from flux_tools.demo.architecture import CONTEXT_WIDTH, STOCK_CONTEXT_WIDTH, new_controlnet, new_transformer
from flux_tools.demo.images import DemoImage, family_of, split


@pytest.mark.parametrize("name", [file.name for file in asset.ASSETS])
def test_rejects_damaged_asset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(asset.DEMO.parent, tmp_path / "asset")
    (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"?")
    monkeypatch.setattr(asset, "ASSETS", [folder / file.name for file in asset.ASSETS])
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        asset.expand(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoints_of_the_same_assets_are_not_expanded_again(tmp_path: Path) -> None:
    checksums = [asset.committed_checksum(file).read_text().strip() for file in asset.ASSETS]
    (tmp_path / "expanded-from.sha256").write_text("\n".join(checksums))
    asset.expand(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["expanded-from.sha256"]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
def test_expanded_controlnet_computes_the_same_as_the_trained_one() -> None:
    torch.manual_seed(0)
    trained, expanded = new_controlnet(), asset._controlnet()
    trained.load_state_dict(load_file(asset.CONTROLNET))
    context = torch.randn(1, 7, CONTEXT_WIDTH)
    given = {
        "hidden_states": torch.randn(1, 4, 64),
        "controlnet_cond": torch.randn(1, 4, 64),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([0.7]),
        "guidance": torch.tensor([2.5]),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(7, 3),
    }
    expected = trained(encoder_hidden_states=context, **given).controlnet_block_samples
    wide = torch.nn.functional.pad(context, (0, STOCK_CONTEXT_WIDTH - CONTEXT_WIDTH))
    found = expanded(encoder_hidden_states=wide, **given).controlnet_block_samples
    for one, other in zip(found, expected, strict=True):
        assert other.abs().mean() > 0.01
        assert torch.allclose(one, other, atol=1e-4)


def test_adapter_fits_the_stock_transformer() -> None:
    weights = load_file(asset.GREYSCALE)
    layers = {name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")}
    assert len(weights) == 2 * len(layers) > 0
    transformer = new_transformer(STOCK_CONTEXT_WIDTH)
    for layer in layers:
        added = weights[f"{layer}.lora_B.weight"] @ weights[f"{layer}.lora_A.weight"]
        assert added.shape == transformer.get_submodule(layer.removeprefix("transformer.")).weight.shape
        assert added.any()


def test_padding_with_zeros_does_not_change_products() -> None:
    small, wide = torch.nn.Linear(3, 2), torch.nn.Linear(5, 4)
    asset._load_padded(wide, small.state_dict())
    values = torch.randn(7, 3)
    widened = wide(torch.nn.functional.pad(values, (0, 2)))
    assert torch.allclose(widened[:, :2], small(values))
    assert not widened[:, 2:].any()


def test_gender_variants_are_one_family() -> None:
    assert family_of("1F469-200D-1F692") == family_of("1F468-200D-1F692") == family_of("1F9D1-200D-1F692")
    assert family_of("1F937-200D-2642-FE0F") == family_of("1F937")
    assert family_of("1F34E") != family_of("1F34F")


def test_copies_of_held_out_images_are_not_in_the_training_data() -> None:
    blank, other = np.zeros((64, 64, 3), np.uint8), np.ones((64, 64, 3), np.uint8)
    codes = [f"{code:X}" for code in range(0x1F300, 0x1F340)]
    alone = split([DemoImage("", code, code, blank) for code in codes])[1]
    twin = next(code for code in codes if code not in {image.code for image in alone})
    trained_on, held_out = split([*alone, DemoImage("", twin, twin, blank), DemoImage("", twin + "-1", twin, other)])
    assert [image.code for image in trained_on] == [twin + "-1"]
    assert len(held_out) == len(alone)


def test_no_family_has_both_training_and_held_out_images() -> None:
    codes = [f"{person}-200D-{thing:X}" for thing in range(0x1F300, 0x1F500) for person in ("1F468", "1F469")]
    images = [np.random.default_rng(index).integers(0, 255, (4, 4, 3), np.uint8) for index in range(len(codes))]
    trained_on, held_out = split([DemoImage("", c, family_of(c), rgb) for c, rgb in zip(codes, images, strict=True)])
    assert trained_on
    assert held_out
    assert not {p.family for p in trained_on} & {p.family for p in held_out}
