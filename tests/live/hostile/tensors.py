"""Malformed inference requests over Triton's own gRPC and HTTP."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from flux_contract.models import MODELS, Ensemble, Model
from flux_contract.tensors import DType, Tensor
from hostile.cases import PARSER, Answer, Hostile, Targets, by_grpc, by_http

#: Acceptable codes for invalid values, and for values that happen to be valid.
_VALUES = frozenset({"OK", "INVALID_ARGUMENT"})
_HTTP_VALUES = frozenset({"200", "400", PARSER})
#: The stream model is decoupled, so Triton does not implement unary calls of it.
CALLED: tuple[Model | Ensemble, ...] = tuple(model for model in MODELS if not getattr(model, "decoupled", False))

_INTEGERS = (-(2**31), -1, 0, 1, 2, 7, 16, 64, 100, 2**31 - 1)
_FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-30, 0.5, 1.0, 3.5, 1e30)
_TEXTS = (
    b"",
    b"\xff\xfe",
    b"\0",
    "ü".encode(),
    b"redux",
    b"png",
    b"a" * 5000,
    b"is stopping",
    b"x (UNAVAILABLE)",
    b"../../x",
)


def add_input(request: Any, name: str, datatype: str, shape: list[int], content: bytes) -> None:
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = name, datatype
    tensor.shape.extend(shape)
    request.raw_input_contents.append(content)


def add_text(request: Any, name: str, text: bytes) -> None:
    add_input(request, name, "BYTES", [1, 1], struct.pack("<I", len(text)) + text)


def _values(tensor: Tensor, count: int, rng: random.Random) -> bytes:
    if tensor.dtype is DType.BYTES:
        texts = [rng.choice(_TEXTS) for _ in range(count)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if tensor.dtype is DType.FP32:
        return np.array([rng.choice(_FLOATS) for _ in range(count)], np.float32).tobytes()
    chosen = [rng.choice(_INTEGERS) for _ in range(count)]
    return np.array(chosen, np.int64).astype(tensor.dtype.numpy_type).tobytes()


def _request(rng: random.Random) -> tuple[Any, Model | Ensemble]:
    """Hostile values for the required inputs and some optional ones, in shapes that the model accepts."""
    model = rng.choice(CALLED)
    request = service_pb2.ModelInferRequest(model_name=model.name)
    optional = [tensor for tensor in model.inputs if tensor.optional]
    chosen = {tensor.name for tensor in rng.sample(optional, min(len(optional), rng.randrange(4)))}
    for tensor in model.inputs:
        if not tensor.optional or tensor.name in chosen:
            shape = [rng.choice((1, 2, 3)) if length == -1 else length for length in tensor.shape]
            content = _values(tensor, int(np.prod(shape)), rng)
            add_input(request, tensor.name, tensor.dtype.name, [1, *shape], content)
    if all(tensor.name != "NUM_INFERENCE_STEPS" for tensor in model.inputs):
        return request, model
    if not any(tensor.name == "NUM_INFERENCE_STEPS" for tensor in request.inputs):
        add_input(request, "NUM_INFERENCE_STEPS", "INT32", [1, 1], struct.pack("<i", 1))
    return request, model


def values_by_grpc(rng: random.Random) -> Hostile:
    request, model = _request(rng)
    given = [tensor.name for tensor in request.inputs]
    # flux_base returns the error that it receives, with its code.
    refused = {"UNAVAILABLE"} if any(name.endswith("REFUSAL") for name in given) else set()
    what = f"{model.name}: {', '.join(given)}"
    return Hostile("values over gRPC", what, _VALUES | refused, lambda targets: by_grpc(targets, request))


def structure_by_grpc(rng: random.Random) -> Hostile:
    """Requests whose parts contradict each other or name things that do not exist."""
    request, model = _request(rng)
    change, expected = rng.choice(_STRUCTURES)
    change(request, rng)
    what = f"{model.name}: {change.__name__.strip('_')}"
    return Hostile("structure over gRPC", what, expected, lambda targets: by_grpc(targets, request))


def _any_input(request: Any, rng: random.Random) -> tuple[int, Any]:
    if not request.inputs:
        add_input(request, "HEIGHT", "INT32", [1, 1], bytes(4))
    index = rng.randrange(len(request.inputs))
    return index, request.inputs[index]


def _another_type(request: Any, rng: random.Random) -> None:
    _any_input(request, rng)[1].datatype = rng.choice(("", "BOOL", "FP64", "INT8", "BYTES", "BF16", "ü", "x" * 1000))


def _another_shape(request: Any, rng: random.Random) -> None:
    tensor = _any_input(request, rng)[1]
    del tensor.shape[:]
    tensor.shape.extend(rng.choice((0, 1, -1, 2, 2**31, 2**62, -(2**63))) for _ in range(rng.randrange(5)))


def _another_length(request: Any, rng: random.Random) -> None:
    index, _ = _any_input(request, rng)
    content = request.raw_input_contents[index]
    request.raw_input_contents[index] = rng.choice((b"", content[:-1], content + b"\0", content * 3, b"\xff" * 16))


def _no_contents(request: Any, rng: random.Random) -> None:
    _any_input(request, rng)
    del request.raw_input_contents[rng.randrange(len(request.raw_input_contents)) :]


def _another_name(request: Any, rng: random.Random) -> None:
    _any_input(request, rng)[1].name = rng.choice(("", "X", "OUTPUT_IMAGE", "ü" * 50, "a" * 3000))


def _name_with_a_nul(request: Any, rng: random.Random) -> None:
    """Triton reads a name only up to the NUL."""
    tensor = _any_input(request, rng)[1]
    tensor.name = rng.choice((f"{tensor.name}\0", "IMAGE\0", "\0"))


def _twice(request: Any, rng: random.Random) -> None:
    index, tensor = _any_input(request, rng)
    request.inputs.add().CopyFrom(tensor)
    request.raw_input_contents.append(request.raw_input_contents[index])


def _unknown_output(request: Any, rng: random.Random) -> None:
    request.outputs.add().name = rng.choice(("", "X", "IMAGE", "ü"))


def _unknown_region(request: Any, rng: random.Random) -> None:
    _, tensor = _any_input(request, rng)
    tensor.parameters["shared_memory_region"].string_param = rng.choice(("x", "../x", "triton_python_backend_shm_1"))
    tensor.parameters["shared_memory_byte_size"].int64_param = rng.choice((0, 4, -1, 2**62))


def _unknown_model(request: Any, rng: random.Random) -> None:
    request.model_name = rng.choice(("", "x", "flux", "../flux_base", "ü", "a" * 3000))


def _unknown_version(request: Any, rng: random.Random) -> None:
    request.model_version = rng.choice(("2", "-1", "x", "99999999999999999999"))


def _odd_parameters(request: Any, rng: random.Random) -> None:
    name = rng.choice(("sequence_id", "priority", "timeout", "triton_x", "x" * 1000, "binary_data_output"))
    rng.choice(
        (
            lambda: setattr(request.parameters[name], "int64_param", rng.choice((-1, 2**62))),
            lambda: setattr(request.parameters[name], "string_param", "x"),
            lambda: setattr(request.parameters[name], "bool_param", True),
        )
    )()


_WRONG = frozenset({"INVALID_ARGUMENT"})
#: Requests, each with its acceptable codes.
_STRUCTURES: tuple[tuple[Any, frozenset[str]], ...] = (
    (_another_type, _WRONG | {"OK"}),
    (_another_shape, _WRONG | {"OK"}),
    (_another_length, _WRONG | {"OK"}),
    (_no_contents, _WRONG),
    (_another_name, _WRONG),
    (_name_with_a_nul, _VALUES),
    (_twice, _WRONG | {"OK"}),
    (_unknown_output, _WRONG),
    (_unknown_region, _WRONG | {"NOT_FOUND"}),
    (_unknown_model, _WRONG | {"NOT_FOUND"}),
    (_unknown_version, _WRONG | {"NOT_FOUND"}),
    (_odd_parameters, _VALUES),
)


def request_by_http(rng: random.Random) -> Hostile:
    """A JSON body with invalid values or structure, or with a binary part that does not match its header."""
    model = rng.choice(CALLED)
    tensor = rng.choice(model.inputs)
    shape = rng.choice(([1, 1], [1, 2], [0], [-1, 1], [2**62, 2**62], []))
    data: Any = rng.choice(([1], ["x"], [[1.5]], [None], [{}], [1e400], ["\ud800"], [], "x", 7, [True], [2**70]))
    body: dict[str, Any] = {
        "inputs": [{"name": tensor.name, "datatype": tensor.dtype.name, "shape": shape, "data": data}]
    }
    if rng.random() < 0.3:
        body[rng.choice(("id", "parameters", "outputs", "inputs"))] = rng.choice((1, "x", [], {}, None, [{}], [[]]))
    text = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if rng.random() < 0.3:
        headers["Inference-Header-Content-Length"] = rng.choice(("0", "-1", "x", "99999999", str(len(text) // 2)))
        text += rng.randbytes(rng.randrange(64))

    def send(targets: Targets) -> Answer:
        url = f"http://{targets.http_url}/v2/models/{model.name}/infer"
        return by_http(targets, "POST", url, content=text, headers=headers)

    return Hostile("request over HTTP", f"{model.name} {tensor.name}: {text[:120]!r}", _HTTP_VALUES, send)
