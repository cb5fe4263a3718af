"""Encodes tensors and JSON metadata as a message between instances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from flux_contract.tensors import Array

#: Reserved names and suffixes. No tensor of the contract has a dot in its name.
_ABOUT, _BYTES, _LENGTHS = ".about", ".bytes", ".lengths"


def pack_message(values: Mapping[str, Array], about: Mapping[str, Any]) -> bytes:
    """Encode a message.

    values: tensors by name; elements of text tensors are bytes or str. about: JSON-serializable metadata.
    """
    arrays: dict[str, Array] = {_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for name, array in values.items():
        if array.dtype == np.object_:
            texts = [item.encode() if isinstance(item, str) else bytes(item) for item in array.flat]
            arrays[name + _BYTES] = np.frombuffer(b"".join(texts), np.uint8)
            arrays[name + _LENGTHS] = np.array([len(text) for text in texts], np.int64).reshape(array.shape)
        else:
            arrays[name] = np.ascontiguousarray(array)
    return save(arrays)


def unpack_message(message: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """Returns the arguments of `pack_message`; elements of text tensors are bytes."""
    arrays = load(message)
    about = json.loads(arrays.pop(_ABOUT).tobytes())
    values: dict[str, Array] = {}
    for name, array in arrays.items():
        if name.endswith(_LENGTHS):
            values[name.removesuffix(_LENGTHS)] = _texts(arrays[name.removesuffix(_LENGTHS) + _BYTES], array)
        elif not name.endswith(_BYTES):
            values[name] = array
    return values, about


def _texts(joined: Array, lengths: Array) -> Array:
    texts = np.empty(lengths.shape, np.object_)
    ends = np.cumsum(lengths.ravel())
    data = joined.tobytes()
    for index, (end, length) in enumerate(zip(ends.tolist(), lengths.ravel().tolist(), strict=True)):
        texts.flat[index] = data[end - length : end]
    return texts
