"""The base class of the models whose requests wait in a `RequestQueue`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic

from flux_contract.models import Model
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.instance import Instance
from flux_serving.backend.pending_request import Options, PendingRequest
from flux_serving.backend.request_queue import Prepared, RequestQueue
from flux_serving.images.picture_decoding import Decode


class QueuedModelBase(ABC, Generic[Options, Prepared]):
    """One instance of a model. `execute` parses a request and returns; the threads of the queue do the work.

    A subclass names its contract in the class variables and implements `_parse`, which runs in `execute`, `_prepare`,
    which runs in several threads at once, and `_outputs`, which runs in one thread. What they raise is the error of the
    request.
    """

    contract: ClassVar[Model]
    #: The output that carries an error; None: errors are Triton's own.
    refusal_tensor: ClassVar[Tensor | None] = None
    #: Requests that `_finish` takes at once.
    max_together: ClassVar[int] = 1
    #: Whether `_prepare` decodes images.
    decodes: ClassVar[bool] = True

    def __init__(self, args: Mapping[str, str]) -> None:
        """args: what Triton hands to `initialize`. Raises CannotStart: a setting or a checkpoint is wrong."""
        self._instance = Instance.start(self.contract, args)
        self._load(self._instance)
        self._queue = RequestQueue(
            self.contract,
            self._instance.settings,
            self.refusal_tensor,
            self._parse,
            self._prepare,
            self._finish,
            self.max_together,
            self.decodes,
        )
        self._instance.heartbeat.begin()

    def execute(self, requests: Sequence[Any]) -> None:
        self._queue.accept(requests)

    def close(self) -> None:
        self._queue.close()
        self._instance.close()

    def _load(self, instance: Instance) -> None:
        """Load what the requests need, before the first one arrives."""

    @abstractmethod
    def _parse(self, values: Mapping[str, Array]) -> Options:
        """values: copies of the request's tensors, by name, already checked against the contract."""

    @abstractmethod
    def _prepare(self, options: Options, decode: Decode) -> Prepared:
        """The part of the work that requests do not share."""

    @abstractmethod
    def _outputs(self, prepared: Prepared) -> Mapping[Tensor, Array]:
        """The outputs of one request, without the batch dimension."""

    def _finish(self, batch: Sequence[tuple[PendingRequest[Options], Prepared]]) -> None:
        """Answer the requests one by one, so that the error of one does not fail the others."""
        for pending, prepared in batch:
            try:
                pending.answer(self._outputs(prepared))
            except Exception as error:
                pending.fail(error)
