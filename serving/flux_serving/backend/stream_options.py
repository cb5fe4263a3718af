"""Reads the options of a request to `flux_stream` from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import CANCEL, STREAM_TOKEN
from flux_contract.models import MODE, Ensemble
from flux_contract.modes import BY_NAME
from flux_contract.tensors import Array
from flux_serving.backend.option_values import read_format, read_text


@dataclass(frozen=True)
class StreamOptions:
    """A request to start a stream.

    token: cancels the stream through CANCEL; empty if it cannot be cancelled that way. previews_as_base64: send
    previews as base64 text. inputs: tensors that are passed on to the ensemble.
    """

    ensemble: Ensemble
    token: str
    previews_as_base64: bool
    inputs: Mapping[str, Array]


def read_stream_options(values: Mapping[str, Array], unserved: Mapping[str, str]) -> StreamOptions:
    """Read the options. values: the tensors that are present, by name, already checked against the contract.

    unserved: modes that the server's checkpoints cannot serve, each with the reason.
    Raises InvalidRequest: the mode is not served, the token is invalid, or an input is missing or not one of the
    ensemble's.
    """
    mode = read_text(values, MODE)
    if mode in unserved:
        raise InvalidRequest(f"{MODE.name}={mode!r}: {unserved[mode]}")
    ensemble, token = BY_NAME[mode].ensemble, ""
    if STREAM_TOKEN.name in values:
        token = read_text(values, STREAM_TOKEN)
        if not re.fullmatch(limits.STREAM_TOKEN_PATTERN, token):
            raise InvalidRequest(f"{STREAM_TOKEN.name} does not match {limits.STREAM_TOKEN_PATTERN}")
    inputs = {name: array for name, array in values.items() if name not in (MODE.name, STREAM_TOKEN.name)}
    known = {tensor.name: tensor for tensor in ensemble.inputs}
    if missing := [name for name, tensor in known.items() if not tensor.optional and name not in inputs]:
        raise InvalidRequest(f"{missing[0]} is missing; {ensemble.name} requires it")
    if strange := [name for name in inputs if name not in known]:
        raise InvalidRequest(f"{strange[0]} is not an input of {ensemble.name}; choose another {MODE.name}")
    return StreamOptions(ensemble, token, read_format(values).as_base64, inputs)


def read_cancelled_token(values: Mapping[str, Array]) -> str:
    """Returns the token of the stream to cancel. Raises InvalidRequest: the request has other inputs."""
    if len(values) > 1:
        raise InvalidRequest(f"{CANCEL.name} must be the only input of its request, found {len(values) - 1} more")
    return read_text(values, CANCEL)
