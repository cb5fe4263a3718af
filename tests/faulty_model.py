"""A model of the product that fails at the place named by the request's id: `fault MODEL PLACE`.

It runs in the stub of the real Triton. `read`, `memory`, `unencodable`: reading the request fails. `answer`, `send`:
building or sending the answer fails once. `engine`: a denoising step fails once. `cuda`: all denoising steps fail from
then on. `silence`: the request is never answered.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flux_contract.errors import InvalidRequest

#: Places that should fail, once each except `cuda`.
_armed: list[str] = []
_silent: list[Any] = []
_FAULTS: dict[str, Callable[[], Exception]] = {
    "read": lambda: RuntimeError("a fault \udcc3\udcbc"),
    "memory": lambda: MemoryError("a fault"),
    "unencodable": lambda: InvalidRequest("a name \udcc3\udcbc that cannot be encoded"),
}


def open_model(module_name: str, args: Any) -> Any:
    module = importlib.import_module(module_name)
    (made,) = (
        value for name, value in vars(module).items() if name.endswith("Model") and value.__module__ == module_name
    )
    name = module_name.rpartition(".")[2]
    places = [
        module,
        *(importlib.import_module(f"flux_serving.backend.{other}") for other in ("wire", "pending_request")),
    ]
    for place in places[:1] + places[2:]:
        if "read_inputs" in vars(place):
            _wrap(place, "read_inputs", partial(_reading, name))
    if name == "flux_base":
        places.append(importlib.import_module("flux_serving.backend.reply"))
        _wrap(module.Sampler, "step", _stepping)
    for place in places:
        for function in ("answer", "send_last"):
            if function in vars(place):
                _wrap(place, function, _answering if function == "answer" else _sending)
    model = made(args)
    _wrap(model, "execute", _executing)
    return model


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    call = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: around(call, *given, **named))


def _executing(call: Callable[[Any], Any], requests: Sequence[Any]) -> Any:
    for request in requests:
        if request.request_id().endswith(" silence"):
            # The request's sender lives as long as the process, so Triton waits.
            _silent.append((request, request.get_response_sender()))
            return None
    return call(requests)


def _reading(name: str, call: Callable[[Any, Any], Any], model: Any, request: Any) -> Any:
    fault, _, place = request.request_id().partition(f" {name} ")
    if fault == "fault" and place in _FAULTS:
        raise _FAULTS[place]()
    if fault == "fault":
        _armed.append(place)
    return call(model, request)


def _stepping(call: Callable[[Any, Any], Any], sampler: Any, batch: Any) -> Any:
    if "cuda" in _armed:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    _fail_once("engine")
    return call(sampler, batch)


def _answering(call: Callable[..., Any], *given: Any) -> Any:
    _fail_once("answer")
    return call(*given)


def _sending(call: Callable[..., Any], model: Any, request_id: str, sender: Any, build: Any, **named: Any) -> Any:
    return call(model, request_id, _Sender(sender), build, **named)


class _Sender:
    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def send(self, *given: Any, **named: Any) -> None:
        _fail_once("send")
        self._sender.send(*given, **named)


def _fail_once(place: str) -> None:
    if place in _armed:
        _armed.remove(place)
        raise RuntimeError(f"a fault \udcc3\udcbc at {place}")
