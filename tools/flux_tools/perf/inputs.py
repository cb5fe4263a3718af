"""Writes perf_analyzer's `--input-data` files, in which each request has its own image and seed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from flux_contract.internal_tensors import CONTEXT_SPANS, POOLED_SPAN, POSITIVE
from flux_contract.models import FLUX_PRIOR_REDUX, FLUX_REDUX, Ensemble
from flux_contract.parameters import IMAGE, IMAGE_MASK, LORA, NEGATIVE_PROMPT, NUM_IMAGES, TRUE_CFG_SCALE
from flux_contract.tensors import DType, Tensor
from flux_tools.bench.images import encoded
from flux_tools.bench.perf_input import request
from flux_tools.perf.options import SIDE, STEPS
from flux_tools.perf.servers import NoServer


@dataclass(frozen=True)
class Work:
    """Options of every request. side: side of the square image in pixels."""

    side: int = SIDE
    steps: int = STEPS


#: One request in the format of `--input-data`, by tensor name.
Entry = Mapping[str, Mapping[str, Any]]

#: Maximum characters of the file of contexts. FLUX.1's contexts take 16 MB each, so sixty would be 1 GB. With fewer
#: contexts, perf_analyzer repeats them, which is harmless: only `flux_prior_redux` has a response cache.
LARGEST_FILE = 256 * 2**20
#: Maximum characters of a request for an export, in which perf_analyzer spells out every number of every request.
LARGEST_EXPORTED = 2**20

#: Outputs of `flux_prior_redux` that are passed to `flux_base`: its required inputs and the spans.
_HANDED = (*POSITIVE, CONTEXT_SPANS, POOLED_SPAN)


def of_images(count: int, occasion: str, work: Work) -> list[Entry]:
    """Return requests for `flux_redux` and `flux_stream`.

    occasion: any word; images with a new word are not in the response cache.
    """
    return [request(number, work.side, work.steps, occasion) for number in range(count)]


def of_every_input(count: int, occasion: str, work: Work, adapter: str, ensemble: Ensemble = FLUX_REDUX) -> list[Entry]:
    """Return requests for `flux_redux` with a value for every input, which perf_analyzer requires for shared memory.

    A negative prompt requires true CFG, so every step computes two rows. Compare results only with the same requests.
    adapter: a LoRA of the server. ensemble: flux_redux or an ensemble with the same required inputs.
    """
    given: dict[str, Any] = {
        tensor.name: tensor.default for tensor in ensemble.inputs if tensor.optional and tensor.default is not None
    }
    given |= {IMAGE_MASK.name: "", NEGATIVE_PROMPT.name: "", TRUE_CFG_SCALE.name: 1.5, NUM_IMAGES.name: 1}
    given |= {LORA.name: adapter}
    by_name = {tensor.name: tensor for tensor in ensemble.inputs}
    rest = {name: entry_of(by_name[name], by_name[name].array(value)) for name, value in given.items()}
    return [{**rest, **images} for images in of_images(count, occasion, work)]


def of_contexts(count: int, occasion: str, work: Work, grpc_url: str) -> list[Entry]:
    """Return requests for `flux_base`, with the context that the server's `flux_prior_redux` returns for each image.

    There are fewer than `count` if their file would exceed LARGEST_FILE. Raises NoServer.
    """
    entries: list[Entry] = []
    size = 0
    with tritonclient.grpc.InferenceServerClient(grpc_url) as client:
        for number, images in enumerate(of_images(count, occasion, work)):
            image = tritonclient.grpc.InferInput(IMAGE.name, [1, 1], DType.BYTES.wire_name)
            image.set_data_from_numpy(np.array([[encoded(number, occasion)]], dtype=object))
            try:
                answer = client.infer(FLUX_PRIOR_REDUX.name, [image])
            except InferenceServerException as error:
                raise NoServer(f"{FLUX_PRIOR_REDUX.name} at {grpc_url}: {error.message()}") from error
            handed = {tensor.name: entry_of(tensor, answer.as_numpy(tensor.name)[0]) for tensor in _HANDED}
            entry = {**handed, **{name: value for name, value in images.items() if name != IMAGE.name}}
            size += size_of(entry)
            if entries and size > LARGEST_FILE:
                break
            entries.append(entry)
    return entries


def size_of(entry: Entry) -> int:
    """Return the characters of its tensors in base64."""
    return sum(len(tensor["content"]["b64"]) for tensor in entry.values() if "b64" in tensor["content"])


def entry_of(tensor: Tensor, values: npt.NDArray[Any]) -> dict[str, Any]:
    """Return one tensor of a request, without the batch dimension: its wire format in base64."""
    if tensor.dtype is DType.BYTES:
        raw = b"".join(len(value).to_bytes(4, "little") + value for value in values.tolist())
    else:
        raw = np.ascontiguousarray(values, tensor.dtype.numpy_type).tobytes()
    return {"content": {"b64": base64.b64encode(raw).decode()}, "shape": list(values.shape)}


def write(file: Path, entries: Iterable[Entry]) -> Path:
    file.write_text(json.dumps({"data": list(entries)}))
    return file
