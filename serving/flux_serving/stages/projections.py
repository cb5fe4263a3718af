"""The linear layers of a stock network: fused where they read the same input, adapted where a request asks for a LoRA.

The stock weights are never written after they were fused: a low-rank addition is computed beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@dataclass(frozen=True)
class LowRank:
    """What is added to a layer: `up @ down`. down: (rank, inputs). up: (outputs, rank), scaled.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    down: Tensor
    up: Tensor


#: What is added to the layers of these names.
Additions: TypeAlias = Mapping[str, LowRank]


@dataclass(frozen=True)
class Projection:
    """One linear layer, or several of the same input as one. weight: (outputs, inputs)."""

    weight: Tensor
    bias: Tensor | None
    addition: LowRank | None = None

    def __call__(self, x: Tensor) -> Tensor:
        projected = linear(x, self.weight, self.bias)
        if self.addition is None:
            return projected
        return projected + linear(linear(x, self.addition.down), self.addition.up)

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    def first(self, outputs: int) -> Projection:
        """The first so many of its outputs."""
        addition = self.addition and replace(self.addition, up=self.addition.up[:outputs])
        return Projection(self.weight[:outputs], None if self.bias is None else self.bias[:outputs], addition)


class Projections:
    """Of one stock network, by the names of its modules. Those that are fused become views of the fused weight, so that
    memory holds it once and the stock network still runs.
    """

    def __init__(self, stock: nn.Module) -> None:
        self._stock = stock
        self._plain: dict[tuple[str, ...], Projection] = {}
        self._additions: Additions = {}

    def __call__(self, *names: str) -> Projection:
        """The layers of these names as one."""
        if names not in self._plain:
            self._plain[names] = _fused([self._layer(name) for name in names])
        plain = self._plain[names]
        outputs = [self._layer(name).out_features for name in names]
        return replace(plain, addition=_side_by_side([self._additions.get(name) for name in names], outputs))

    def _layer(self, name: str) -> nn.Linear:
        layer = self._stock.get_submodule(name)
        assert isinstance(layer, nn.Linear), name
        return layer

    def __iter__(self) -> Iterator[str]:
        """The names that were asked for."""
        for names in self._plain:
            yield from names

    def with_additions(self, additions: Additions) -> Projections:
        """The same layers, adapted."""
        adapted = Projections(self._stock)
        adapted._plain, adapted._additions = self._plain, additions
        return adapted


def _fused(layers: Sequence[nn.Linear]) -> Projection:
    if len(layers) == 1:
        return Projection(layers[0].weight, layers[0].bias)
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight.data, layer.bias.data = weight[start:end], bias[start:end]
        start = end
    return Projection(weight, bias)


def _side_by_side(additions: Sequence[LowRank | None], outputs: Sequence[int]) -> LowRank | None:
    """Of fused layers, each of which gives so many outputs."""
    given = [addition for addition in additions if addition is not None]
    if not given:
        return None
    ups = [
        given[0].up.new_zeros(count, 0) if addition is None else addition.up
        for addition, count in zip(additions, outputs, strict=True)
    ]
    return LowRank(torch.cat([addition.down for addition in given]), torch.block_diag(*ups))  # type: ignore[no-untyped-call]
