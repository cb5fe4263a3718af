"""Load of each instance of `flux_base`, as the model flux_status reports it."""

from __future__ import annotations

from dataclasses import dataclass

from flux_client.request import Request
from flux_client.transport import Answer
from flux_client.values import array_of
from flux_contract.errors import GenerationFailed
from flux_contract.internal_tensors import DEVICE, INSTANCE, JOBS, QUERY, ROOM, SECONDS_LEFT
from flux_contract.models import FLUX_STATUS

_OUTPUTS = tuple(tensor.name for tensor in (INSTANCE, DEVICE, SECONDS_LEFT, JOBS, ROOM))


@dataclass(frozen=True)
class InstanceLoad:
    """Load of one running instance of `flux_base`."""

    #: Triton's name of the instance, such as `flux_base_0_0`.
    name: str
    #: A GPU such as `cuda:7`, or `cpu`.
    device: str
    #: Estimated seconds until every image has completed its last step.
    seconds_left: float
    #: Images waiting or running.
    jobs: int
    #: Images that the instance would accept now.
    room: int


def load_request() -> Request:
    (query,) = QUERY.choices
    return Request(FLUX_STATUS.name, {QUERY.name: array_of(FLUX_STATUS.name, QUERY, query)}, _OUTPUTS)


def read_instances(answer: Answer) -> list[InstanceLoad]:
    """Convert outputs of flux_status, of shape [1, n], to n instances. Raises GenerationFailed: the lengths differ."""
    try:
        columns = [answer[name].ravel().tolist() for name in _OUTPUTS]
        rows = list(zip(*columns, strict=True))
    except (KeyError, ValueError) as error:
        raise GenerationFailed(f"{FLUX_STATUS.name}: expected {', '.join(_OUTPUTS)} of one length") from error
    return [
        InstanceLoad(name.decode(), device.decode(), seconds_left, jobs, room)
        for name, device, seconds_left, jobs, room in rows
    ]
