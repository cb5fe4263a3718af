"""Keywords of each mode, with their parameters, derived from the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flux_contract.models import CANNY_EDGES
from flux_contract.modes import MODES, Mode
from flux_contract.parameter import Parameter
from flux_contract.parameters import OUTPUT_FORMAT, PREVIEW_PARAMETERS
from flux_contract.tensors import Tensor


def keywords_of(mode: Mode) -> Mapping[str, Parameter]:
    """Keywords of the mode's method, which does not support previews because it returns one response."""
    return _by_keyword(each for each in (*mode.subjects, *mode.options) if each not in PREVIEW_PARAMETERS)


def stream_keywords_of(mode: Mode) -> Mapping[str, Parameter]:
    """Keywords of `stream` in this mode."""
    return {**keywords_of(mode), **_by_keyword(PREVIEW_PARAMETERS)}


def _by_keyword(tensors: Iterable[Tensor]) -> dict[str, Parameter]:
    return {tensor.python_name: tensor for tensor in tensors if isinstance(tensor, Parameter)}


#: By mode.
KEYWORDS: Mapping[str, Mapping[str, Parameter]] = {mode.name: keywords_of(mode) for mode in MODES}
STREAM_KEYWORDS: Mapping[str, Mapping[str, Parameter]] = {mode.name: stream_keywords_of(mode) for mode in MODES}
#: Keywords of `edges`, which always requests PNG. Other clients may choose a format.
EDGES_KEYWORDS: Mapping[str, Parameter] = _by_keyword(each for each in CANNY_EDGES.inputs if each != OUTPUT_FORMAT)
