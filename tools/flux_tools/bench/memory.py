"""`scripts/bench memory`: memory use of every model, with the demo checkpoint and, calculated, with FLUX.1-dev.

Weights are counted in this process, loaded as the models load them. The resident memory of the models' processes is
read from a running server.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from flux_contract.models import FLUX_BASE, FLUX_PRIOR_REDUX, FLUX_VAE_ENCODER
from flux_contract.modes import BY_NAME
from flux_serving.launch.processes import end_on_signals
from flux_serving.network.lora import Adapter, read_adapter, summed
from flux_serving.network.weights import load_base, load_prior, load_vae_encoder
from flux_serving.sampling.sampler import Sampler
from flux_tools.bench import flux_dev
from flux_tools.bench import memory_report as report
from flux_tools.bench.callers import open_caller
from flux_tools.bench.checkpoint import CHECKPOINTS, FOLDER, ROOT
from flux_tools.bench.images import encoded
from flux_tools.bench.memory_report import Loaded, MemoryPart
from flux_tools.bench.options import read_memory_options
from flux_tools.bench.plan import ImageOptions
from flux_tools.bench.processes import resident_bytes
from flux_tools.bench.running import running
from flux_tools.bench.storages import bytes_in, bytes_of
from flux_tools.demo.asset import expand
from flux_tools.documents import replaced

PAGE = ROOT / "docs" / "memory.md"
LOGS = ROOT / "out" / "bench" / "logs"
ADAPTER = FOLDER / "flux-lora" / "greyscale.safetensors"

#: Parts of the Redux pipeline, by their names in it.
_OF_PRIOR = {
    "image_encoder": report.SIGLIP,
    "image_embedder": report.EMBEDDER,
    "text_encoder": report.CLIP,
    "text_encoder_2": report.T5,
}


def parts_of(prior: Mapping[str, Any], vae_encoder: Any, sampler: Sampler, lora: Adapter) -> list[MemoryPart]:
    """Return the weights of each model. prior: by the keys of _OF_PRIOR. lora: for the sampler's transformer."""
    base, adapted = sampler.base, sampler.transformer.adapted(summed([(lora, 1.0)]))
    held = {
        FLUX_PRIOR_REDUX: {name: bytes_of(prior[part]) for part, name in _OF_PRIOR.items()},
        FLUX_VAE_ENCODER: {report.VAE_ENCODER: bytes_of(vae_encoder)},
        FLUX_BASE: {
            report.TRANSFORMER: bytes_of(base.transformer),
            report.FUSED: bytes_of(sampler) - bytes_of(base),
            report.VAE: bytes_of(base.vae),
            report.CONTROLNET: bytes_of(base.controlnet),
            report.ADAPTER: bytes_of([sampler, lora, adapted]) - bytes_of(sampler),
        },
    }
    return [MemoryPart(model.name, name, weights) for model, parts in held.items() for name, weights in parts.items()]


def demo() -> tuple[list[MemoryPart], list[Loaded]]:
    """Return the weights of the demo checkpoint, in memory and compared with its files."""
    cpu, dtype = torch.device("cpu"), torch.float32
    pipeline = load_prior(CHECKPOINTS, cpu, dtype)
    prior = {part: getattr(pipeline, part) for part in _OF_PRIOR}
    vae_encoder = load_vae_encoder(CHECKPOINTS, cpu, dtype)
    sampler = Sampler(load_base(CHECKPOINTS, cpu, dtype))
    base, redux, vae = CHECKPOINTS.base, CHECKPOINTS.redux, CHECKPOINTS.vae_folder
    of_prior = [redux / "image_encoder", redux / "image_embedder", base / "text_encoder", base / "text_encoder_2"]
    of_base = [base / "transformer", vae, FOLDER / "flux-controlnet-canny"]
    loaded = [
        Loaded(FLUX_PRIOR_REDUX.name, bytes_of(prior), bytes_in(of_prior)),
        Loaded(FLUX_VAE_ENCODER.name, bytes_of(vae_encoder), bytes_in([vae], "encoder.")),
        Loaded(FLUX_BASE.name, bytes_of(sampler), bytes_in(of_base)),
    ]
    return parts_of(prior, vae_encoder, sampler, read_adapter(ADAPTER, sampler.transformer)), loaded


def dev() -> list[MemoryPart]:
    """Return the weights of FLUX.1-dev, calculated by the same code."""
    vae_encoder = flux_dev.vae()
    del vae_encoder.decoder
    sampler = Sampler(flux_dev.base())
    return parts_of(flux_dev.prior(), vae_encoder, sampler, flux_dev.adapter(sampler.transformer))


def resident_after_every_mode() -> dict[str, list[int]]:
    """Return the resident bytes of each model's processes, after one image in every mode.

    Weights are in memory-mapped files and are only read when the first image needs them.
    """
    with running("ours", None, LOGS) as server:
        assert server is not None
        call = open_caller("flux-grpc", server.grpc)
        for number, mode in enumerate(BY_NAME):
            call(encoded(number, mode), ImageOptions(number, 64, 4, number, mode))
        return resident_bytes(server.pid)


def main() -> int:
    options = read_memory_options()
    end_on_signals()
    expand(FOLDER)
    parts, loaded = demo()
    sections = report.sections(parts, dev(), loaded, resident_after_every_mode())
    for name, text in sections.items():
        print(f"\n## {name}\n\n{text}")
    if options.docs:
        PAGE.write_text(replaced(PAGE.read_text(), sections))
    for one in loaded:
        if not one.is_loaded_once:
            text = f"{one.model} holds {one.weights} bytes of weights, its files {one.files}; expected the same"
            print(f"scripts/bench memory: {text}", file=sys.stderr)
    return 0 if all(one.is_loaded_once for one in loaded) else 1


if __name__ == "__main__":
    sys.exit(main())
