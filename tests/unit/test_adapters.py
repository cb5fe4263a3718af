"""The server's folder of adapters: names are looked up at each request, and memory is limited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from flux_contract.errors import InvalidRequest
from flux_serving.backend.adapters import Adapters
from flux_serving.network import lora
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.sampling_parameters import Lora


def put(folder: Path, name: str, value: float) -> None:
    weights = {"lora_A": torch.full((1, 16), value), "lora_B": torch.full((32, 1), value)}
    save_file(
        {f"transformer.x_embedder.{part}.weight": w for part, w in weights.items()}, folder / f"{name}.safetensors"
    )


@pytest.fixture
def adapters(tmp_path: Path, tiny_flux: FluxPipeline) -> Adapters:
    put(tmp_path, "one", 0.1)
    put(tmp_path, "two", 0.2)
    return Adapters(tmp_path, Transformer(tiny_flux.transformer), count=2)


def test_same_adapters_share_one_transformer_so_that_jobs_share_steps(adapters: Adapters) -> None:
    both = (Lora("one", 1.0), Lora("two", 0.5))
    assert adapters.adapted(both) is adapters.adapted(both)
    assert adapters.adapted(both) is not adapters.adapted(both[:1])
    assert adapters.adapted(both[:1]) is not adapters.adapted((Lora("one", 0.5),))


def test_least_recently_used_adapters_are_dropped(adapters: Adapters) -> None:
    first = adapters.adapted((Lora("one", 1.0),))
    adapters.adapted((Lora("two", 1.0),))
    assert adapters.adapted((Lora("one", 1.0),)) is first
    adapters.adapted((Lora("one", 0.5),))
    adapters.adapted((Lora("two", 0.5),))
    assert len(adapters._adapted) == 2
    assert adapters.adapted((Lora("one", 1.0),)) is not first


def test_replaced_file_is_read_again(adapters: Adapters, tmp_path: Path) -> None:
    before = adapters.adapted((Lora("one", 1.0),))
    put(tmp_path, "one", 0.9)
    os.utime(tmp_path / "one.safetensors", ns=(1, 1))
    assert adapters.adapted((Lora("one", 1.0),)) is not before


@pytest.mark.parametrize("how", ["renamed", "written"])
def test_replacement_with_same_size_and_time_is_read_again(adapters: Adapters, tmp_path: Path, how: str) -> None:
    file, replacement = tmp_path / "one.safetensors", tmp_path / "new" / "one.safetensors"
    before, found = adapters.adapted((Lora("one", 1.0),)), file.stat()
    replacement.parent.mkdir()
    put(replacement.parent, "one", 0.9)
    os.utime(replacement, ns=(found.st_atime_ns, found.st_mtime_ns))
    if how == "renamed":
        replacement.rename(file)
    else:
        file.write_bytes(replacement.read_bytes())
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (found.st_size, found.st_mtime_ns)
    adapted = adapters.adapted((Lora("one", 1.0),))
    assert adapted is not before
    (addition,) = adapted._project("x_embedder").additions
    assert float(addition.up[0, 0]) == pytest.approx(0.9)


def test_truncating_a_file_after_reading_is_harmless(adapters: Adapters, tmp_path: Path) -> None:
    """With a memory-mapped file, the process would crash here."""
    adapted = adapters.adapted((Lora("one", 1.0),))
    (tmp_path / "one.safetensors").write_bytes(b"")
    (addition,) = adapted._project("x_embedder").additions
    assert float(addition.up.sum()) == pytest.approx(32 * 0.1)
    with pytest.raises(InvalidRequest, match="LORA='one' cannot be read"):
        adapters.adapted((Lora("one", 1.0),))


@pytest.mark.parametrize("writes", [1, 10])
def test_file_that_changes_during_reading_is_read_again(
    adapters: Adapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """writes: number of reads during which the file is replaced. The first read finds a half-written file."""
    file, left = tmp_path / "one.safetensors", [writes]
    whole = file.read_bytes()
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        content = read_bytes(path)
        if left[0]:
            left[0] -= 1
            path.write_bytes(whole[:-1] if left[0] else whole)
            os.utime(path, ns=(left[0], left[0]))
            return content[:-1]
        return content

    monkeypatch.setattr(Path, "read_bytes", read)
    if writes == 1:
        adapted = adapters.adapted((Lora("one", 1.0),))
        assert adapters.adapted((Lora("one", 1.0),)) is adapted
    else:
        with pytest.raises(InvalidRequest, match="LORA='one' is being written; retry when the file is complete"):
            adapters.adapted((Lora("one", 1.0),))


def test_new_file_is_found_without_restart(adapters: Adapters, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="LORA='three', expected one of: one, two"):
        adapters.adapted((Lora("three", 1.0),))
    put(tmp_path, "three", 0.3)
    assert adapters.adapted((Lora("three", 1.0),))


def test_broken_symlink_is_not_an_adapter(adapters: Adapters, tmp_path: Path) -> None:
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match=r"expected one of: one, two$"):
        adapters.adapted((Lora("gone", 1.0),))


@pytest.mark.parametrize("name", ["../one", "one.safetensors", "", "/etc/passwd", "ONE", "x" * 5000])
def test_path_is_not_accepted_as_name(adapters: Adapters, name: str) -> None:
    with pytest.raises(InvalidRequest, match="expected one of: one, two"):
        adapters.adapted((Lora(name, 1.0),))


def test_error_without_a_folder_says_how_to_configure_one(tiny_flux: FluxPipeline) -> None:
    with pytest.raises(InvalidRequest, match="this server has no adapters; set FLUX_LORA_PATH to their folder"):
        Adapters(None, Transformer(tiny_flux.transformer), 2).adapted((Lora("one", 1.0),))


def test_rejects_file_that_is_too_large(adapters: Adapters, tmp_path: Path) -> None:
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(InvalidRequest, match=r"LORA='huge' cannot be read: the file has 53687091200 bytes, expected"):
        adapters.adapted((Lora("huge", 1.0),))


def test_rejects_file_if_memory_runs_out(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(content: bytes) -> object:
        raise MemoryError

    monkeypatch.setattr(lora, "read_lora_file", out_of_memory)
    with pytest.raises(InvalidRequest, match="LORA='one' cannot be read: too large for the free memory"):
        adapters.adapted((Lora("one", 1.0),))
