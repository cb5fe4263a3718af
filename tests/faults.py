"""Injects faults: makes any call to or from the product's code raise once.

It uses Python's profiling hook, so the product needs no changes for it. A place is a call: the file and function
that make it, and the function that is called.
"""

from __future__ import annotations

import sys
import threading
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

PRODUCT = "flux_serving"
#: Folders in which every call counts, including calls of libraries. Elsewhere, only calls of the product's functions
#: count.
THOROUGH = ("backend", "scheduling", "contract")
#: Files whose calls are not part of answering a request.
EXEMPT = ("heartbeat", "threading", "_weakrefset", "weakref", "publishing", "instance")


class Place(NamedTuple):
    file: str
    function: str
    called: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function} -> {self.called}"


class Injector:
    """Records places while `recording`; raises `fault` at the place that `armed` names, once."""

    def __init__(self) -> None:
        self.recording: dict[Place, None] | None = None
        self.armed: Place | None = None
        self.fault: BaseException | None = None
        self.hit = False

    def install(self) -> None:
        """Trace this thread and those that start from now on."""
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)

    def remove(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    def arm(self, place: Place, fault: BaseException) -> None:
        self.armed, self.fault, self.hit = place, fault, False

    def _hook(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "c_call") or (self.recording is None and self.armed is None):
            return
        place = _place(frame, event, argument)
        if place is None:
            return
        if self.recording is not None:
            self.recording.setdefault(place)
        elif place == self.armed:
            self.armed, self.hit = None, True
            assert self.fault is not None
            raise self.fault


class _Source(NamedTuple):
    """Returns the functions of a source file whose calls count."""

    name: str
    is_product: bool
    is_thorough: bool
    is_exempt: bool


@cache
def _source(path: str) -> _Source:
    file = Path(path)
    is_product = PRODUCT in file.parts
    return _Source(file.name, is_product, is_product and file.parent.name in THOROUGH, file.stem in EXEMPT)


def _place(frame: FrameType, event: str, argument: Any) -> Place | None:
    caller = frame.f_back if event == "call" else frame
    if caller is None:
        return None
    source = _source(caller.f_code.co_filename)
    if source.is_exempt or caller.f_code.co_name == "__del__":
        return None
    if event == "call":
        called_in = _source(frame.f_code.co_filename)
        if called_in.is_exempt or not (source.is_thorough or called_in.is_product):
            return None
        called = frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name
    elif not source.is_thorough:
        return None
    else:
        called = getattr(argument, "__qualname__", str(argument))
        if "lock." in called.lower():
            # If `release` itself raised, the lock would stay locked, which real locks never do.
            return None
    return Place(source.name, caller.f_code.co_name, called)
