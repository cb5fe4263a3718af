"""`flux_status`: reports the work that each instance of `flux_base` has left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flux_contract.internal_tensors import DEVICE, INSTANCE, JOBS, ROOM, SECONDS_LEFT
from flux_contract.models import FLUX_STATUS
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.server_folder import ServerFolder
from flux_serving.backend.wire import answer, read_inputs, refuse, send_last
from flux_serving.backend.work_board import WorkBoard


class FluxStatusModel:
    def __init__(self, args: Mapping[str, str]) -> None:
        self._instance = Instance.start(FLUX_STATUS, args)
        self._board = WorkBoard(ServerFolder.of_server(os.environ))
        self._instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            try:
                build = partial(answer, request.requested_output_names(), self._outputs(request))
                request_id, sender = request.request_id(), request.get_response_sender()
            except BaseException as error:
                refuse(FLUX_STATUS, request, error)
            else:
                send_last(FLUX_STATUS, request_id, sender, build)

    def close(self) -> None:
        self._instance.close()

    def _outputs(self, request: Any) -> dict[Tensor, Array]:
        """Returns the status outputs. Raises InvalidRequest: the query is unknown."""
        read_inputs(FLUX_STATUS, request)
        found = self._board.read()
        return {
            INSTANCE: INSTANCE.array([work.instance for work in found]),
            DEVICE: DEVICE.array([work.device for work in found]),
            SECONDS_LEFT: SECONDS_LEFT.array([work.seconds_left for work in found]),
            JOBS: JOBS.array([len(work.backlog.jobs) for work in found]),
            ROOM: ROOM.array([work.backlog.room for work in found]),
        }
