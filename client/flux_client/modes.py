"""Which keywords each mode takes, and the tensor of each: derived from the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flux_contract.internal_tensors import PROGRESS_ADDRESS
from flux_contract.models import BY_MODE, CANNY_EDGES
from flux_contract.parameters import IMAGE, IMAGE_STRENGTH, OUTPUT_FORMAT, PREVIEW_PARAMETERS
from flux_contract.tensors import Tensor

#: The mode whose `strength` is the client's own scale of its pictures' weights.
REDUX = "redux"


def keyword_of(tensor: Tensor) -> str:
    return "images" if tensor.name == IMAGE.name else tensor.name.lower()


def _by_keyword(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {keyword_of(tensor): tensor for tensor in tensors}


#: By mode. A call's one answer has no room for previews, and only flux_stream has an address for progress.
KEYWORDS: Mapping[str, Mapping[str, Tensor]] = {
    mode: _by_keyword(tensor for tensor in ensemble.inputs if tensor not in (*PREVIEW_PARAMETERS, PROGRESS_ADDRESS))
    | ({"strength": IMAGE_STRENGTH} if mode == REDUX else {})
    for mode, ensemble in BY_MODE.items()
}
STREAM_KEYWORDS: Mapping[str, Mapping[str, Tensor]] = {
    mode: {**keywords, **_by_keyword(PREVIEW_PARAMETERS)} for mode, keywords in KEYWORDS.items()
}
#: Its file is always a PNG; only callers over JSON have a say.
EDGES_KEYWORDS: Mapping[str, Tensor] = _by_keyword(tensor for tensor in CANNY_EDGES.inputs if tensor != OUTPUT_FORMAT)
