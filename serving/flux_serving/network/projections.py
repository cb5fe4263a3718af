"""The linear layers of a stock network: fused if they read the same input, and adapted if a request uses a LoRA.

After fusing, the stock weights never change: a LoRA's low-rank product is computed and added separately.
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
    """A low-rank addition to a layer: `scale * up @ down`. down: (rank, inputs). up: (outputs, rank).

    first: index of the layer's first output that it changes. Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of
    Large Language Models".
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    first: int = 0

    def add_to(self, projected: Tensor, x: Tensor) -> None:
        """Add to the layer's output in place. x: the layer's input."""
        outputs = projected[..., self.first : self.first + self.up.shape[0]]
        outputs.add_(linear(linear(x, self.down), self.up), alpha=self.scale)


#: The low-rank additions by layer name.
Additions: TypeAlias = Mapping[str, Sequence[LowRank]]


@dataclass(frozen=True)
class Projection:
    """One linear layer, or several layers with the same input fused into one. weight: (outputs, inputs)."""

    weight: Tensor
    bias: Tensor | None
    additions: Sequence[LowRank] = ()

    def __call__(self, x: Tensor) -> Tensor:
        projected = linear(x, self.weight, self.bias)
        for addition in self.additions:
            addition.add_to(projected, x)
        return projected

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    def first(self, outputs: int) -> Projection:
        """Returns a projection to only the first `outputs` outputs."""
        additions = [replace(own, up=own.up[: outputs - own.first]) for own in self.additions if own.first < outputs]
        return Projection(self.weight[:outputs], None if self.bias is None else self.bias[:outputs], additions)


class Projections:
    """The projections of one stock network, by module name.

    The weights of fused layers become views of the fused weight: memory holds them once, and the stock network still
    runs.
    """

    def __init__(self, stock: nn.Module) -> None:
        self._stock = stock
        self._plain: dict[tuple[str, ...], Projection] = {}
        self._additions: Additions = {}

    def __call__(self, *names: str) -> Projection:
        """Returns the layers with these names, fused into one."""
        if names not in self._plain:
            self._plain[names] = _fused([self._layer(name) for name in names])
        additions, first = [], 0
        for name in names:
            additions += [replace(own, first=first) for own in self._additions.get(name, ())]
            first += self._layer(name).out_features
        return replace(self._plain[names], additions=additions)

    def _layer(self, name: str) -> nn.Linear:
        layer = self._stock.get_submodule(name)
        assert isinstance(layer, nn.Linear), name
        return layer

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all layers requested so far."""
        for names in self._plain:
            yield from names

    def with_additions(self, additions: Additions) -> Projections:
        """Returns the same layers with these low-rank additions."""
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
