"""An incomplete checkpoint prevents the start and names missing files; a mode without its checkpoint is not served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import DEMO
from flux_serving.checkpoint_files import DIFFUSERS_MODEL
from stub_checkpoints import stub_checkpoints, stub_component, stub_weights


def shard(folder: Path) -> None:
    """Turn the weights of a component into two shards with their index."""
    single = folder / "diffusion_pytorch_model.safetensors"
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        shutil.copy(single, folder / name)
    single.unlink()
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (folder / f"{single.name}.index.json").write_text(json.dumps(index))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("text", [False, True])
def test_complete_checkpoint_has_no_problems(tmp_path: Path, text: bool) -> None:
    checkpoints = stub_checkpoints(tmp_path, text=text)
    assert checkpoints.missing() == []
    shard(checkpoints.base / "transformer")
    assert checkpoints.missing() == []


def test_demo_checkpoint_and_controlnet_have_no_problems() -> None:
    assert DEMO.missing() == []


def test_weights_in_pytorch_format_are_complete(tmp_path: Path) -> None:
    checkpoints = stub_checkpoints(tmp_path)
    (checkpoints.base / "vae" / WEIGHTS).rename(checkpoints.base / "vae" / "diffusion_pytorch_model.bin")
    (checkpoints.redux / "image_encoder" / "model.safetensors").rename(
        checkpoints.redux / "image_encoder" / "pytorch_model.bin"
    )
    assert checkpoints.missing() == []


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda base: shutil.rmtree(base / "tokenizer_2"), "{base} has no tokenizer_2"),
        (lambda base: shutil.rmtree(base / "text_encoder"), "{base} has no text_encoder"),
        (lambda base: shutil.rmtree(base / "vae"), "{base} has no vae"),
        (lambda base: (base / "model_index.json").unlink(), "{base} has no model_index.json"),
        (lambda base: (base / "model_index.json").write_text("{"), "{base}/model_index.json is not a JSON object"),
        (lambda base: (base / "vae" / "config.json").unlink(), "{base}/vae has no config.json"),
        (lambda base: (base / "vae" / "config.json").write_text(""), "{base}/vae/config.json is not a JSON object"),
        (
            lambda base: (base / "scheduler" / "scheduler_config.json").rename(base / "scheduler" / "x"),
            "{base}/scheduler has no scheduler_config.json",
        ),
        (
            lambda base: (base / "transformer" / WEIGHTS).unlink(),
            f"{{base}}/transformer has no weights, expected {WEIGHTS} or {WEIGHTS}.index.json with its shards",
        ),
        (
            lambda base: (base / "text_encoder_2" / "model.safetensors").unlink(),
            "{base}/text_encoder_2 has no weights, expected model.safetensors or model.safetensors.index.json with its "
            "shards",
        ),
        (
            lambda base: (base / "tokenizer" / "tokenizer.json").unlink(),
            "{base}/tokenizer has no vocabulary, expected tokenizer.json or spiece.model or vocab.json with merges.txt",
        ),
        (
            lambda base: cut_off(base / "vae" / WEIGHTS),
            f"{{base}}/vae/{WEIGHTS} is incomplete: {len(stub_weights()) - 1} bytes, expected {len(stub_weights())}",
        ),
        (
            lambda base: (base / "vae" / WEIGHTS).write_bytes(stub_weights()[:20]),
            f"{{base}}/vae/{WEIGHTS} is incomplete or not a safetensors file: "
            "its header cannot be read, it has 20 bytes",
        ),
        (
            lambda base: (base / "vae" / WEIGHTS).write_bytes(b""),
            f"{{base}}/vae/{WEIGHTS} is incomplete or not a safetensors file: "
            "its header cannot be read, it has 0 bytes",
        ),
        (
            lambda base: (base / "vae" / WEIGHTS).write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0"
            ),
            f"{{base}}/vae/{WEIGHTS} is a Git LFS pointer instead of the weights; run git lfs pull",
        ),
    ],
)
def test_problems_of_incomplete_checkpoint_are_named(
    tmp_path: Path, damage: Callable[[Path], object], line: str
) -> None:
    checkpoints = stub_checkpoints(tmp_path, text=True)
    damage(checkpoints.base)
    assert checkpoints.missing() == [f"FLUX_MODEL_PATH: {line.format(base=checkpoints.base)}"]


def test_each_missing_shard_is_named(tmp_path: Path) -> None:
    checkpoints = stub_checkpoints(tmp_path)
    transformer = checkpoints.base / "transformer"
    shard(transformer)
    (transformer / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    cut_off(transformer / "diffusion_pytorch_model-00001-of-00002.safetensors")
    first, second = checkpoints.missing()
    assert "00001-of-00002.safetensors is incomplete" in first
    assert second.endswith("transformer has no diffusion_pytorch_model-00002-of-00002.safetensors")


@pytest.mark.parametrize("index", ["[]", "{}", "{", '{"weight_map": 1}'])
def test_index_without_shards_is_named(tmp_path: Path, index: str) -> None:
    checkpoints = stub_checkpoints(tmp_path)
    (checkpoints.base / "transformer" / f"{WEIGHTS}.index.json").write_text(index)
    (line,) = checkpoints.missing()
    assert line.endswith("is not a valid index of shards")


def test_an_empty_folder_is_a_missing_component(tmp_path: Path) -> None:
    checkpoints = stub_checkpoints(tmp_path)
    for folder in (checkpoints.base / "tokenizer", checkpoints.redux / "image_embedder"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    missing = checkpoints.missing()
    assert f"FLUX_MODEL_PATH: {checkpoints.base}/tokenizer is empty" in missing
    assert f"FLUX_MODEL_PATH: {checkpoints.base} has no text_encoder" in missing
    assert f"FLUX_REDUX_MODEL_PATH: {checkpoints.redux}/image_embedder is empty" in missing


@pytest.mark.parametrize("name", ["flux1-dev.safetensors", "flux1-dev-Q4_0.gguf", "model.ckpt"])
def test_single_file_checkpoint_is_explained(tmp_path: Path, name: str) -> None:
    checkpoints, file = stub_checkpoints(tmp_path), tmp_path / name
    file.write_bytes(stub_weights())
    for field, variable in (
        ("base", "FLUX_MODEL_PATH"),
        ("redux", "FLUX_REDUX_MODEL_PATH"),
        ("vae", "FLUX_VAE_MODEL_PATH"),
        ("controlnet", "FLUX_CONTROLNET_MODEL_PATH"),
    ):
        (line,) = replace(checkpoints, **{field: file}).missing()
        assert line.startswith(f"{variable}: {file} is a single file")
        assert "expected a folder in diffusers layout" in line
        assert ("quantized" in line) == name.endswith(".gguf")


def test_folder_with_single_file_checkpoint_is_explained(tmp_path: Path) -> None:
    checkpoints, folder = stub_checkpoints(tmp_path), tmp_path / "downloaded"
    folder.mkdir()
    (folder / "flux1-dev.safetensors").write_bytes(stub_weights())
    line = replace(checkpoints, base=folder).missing()[0]
    assert line.startswith(f"FLUX_MODEL_PATH: {folder} has no model_index.json; flux1-dev.safetensors is a single-file")


def test_an_incomplete_vae_or_controlnet_is_named(tmp_path: Path) -> None:
    checkpoints = replace(stub_checkpoints(tmp_path), vae=tmp_path / "vae", controlnet=tmp_path / "net")
    for folder in (tmp_path / "vae", tmp_path / "net"):
        stub_component(folder, DIFFUSERS_MODEL)
    assert checkpoints.missing() == []
    (tmp_path / "vae" / "config.json").unlink()
    (tmp_path / "net" / WEIGHTS).unlink()
    first, second = checkpoints.missing()
    assert first == f"FLUX_VAE_MODEL_PATH: {tmp_path}/vae has no config.json"
    assert second.startswith(f"FLUX_CONTROLNET_MODEL_PATH: {tmp_path}/net has no weights")


def test_adapter_file_instead_of_folder_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    file.write_bytes(stub_weights())
    (line,) = replace(stub_checkpoints(tmp_path), loras=file).missing()
    assert line == f"FLUX_LORA_PATH: {file} is a file, expected the folder that contains it"


def test_modes_without_their_checkpoint_are_not_served(tmp_path: Path) -> None:
    bare = stub_checkpoints(tmp_path / "bare")
    assert bare.unserved_modes() == {
        "text2img": "the base checkpoint has no text encoders",
        "canny": "this server has no ControlNet; set FLUX_CONTROLNET_MODEL_PATH to its folder",
    }
    with_text = stub_checkpoints(tmp_path / "text", text=True)
    assert list(with_text.unserved_modes()) == ["canny"]
    assert DEMO.unserved_modes() == {}
