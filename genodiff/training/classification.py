"""Classifiers as models of one objective more: the cross-entropy of a sequence's label; where
labels are numbers, their squared error."""

import abc
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from genodiff.diffusion import Objective


class NothingDrawn(NamedTuple):
    """Classifying is not random."""


class _OfLabels(Objective[NothingDrawn]):
    """A loss of a sequence's label, one number a row."""

    kind = "loss"

    def draw(
        self, model: Any, x0: Int[Tensor, "b l"], *, generator: Generator | None
    ) -> NothingDrawn:
        return NothingDrawn()

    def nats(
        self,
        model: Any,
        x0: Int[Tensor, "b l"],
        drawn: NothingDrawn,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b 1"]:
        """Of the labels `condition` (b,)."""
        if condition is None:
            raise ValueError("a batch without labels has no loss of them")
        return self.of(model(x0).float(), condition)[:, None]

    @abc.abstractmethod
    def of(self, found: Float[Tensor, "b c"], labels: Tensor) -> Float[Tensor, " b"]:
        """The loss of each row."""


class Classification(_OfLabels):
    """-log p(label | sequence); the model gives logits of tokens."""

    def of(self, found: Float[Tensor, "b c"], labels: Tensor) -> Float[Tensor, " b"]:
        return F.cross_entropy(found, labels, reduction="none")


class Regression(_OfLabels):
    """((number - label) / unit)^2; the model gives one number for a row of tokens."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def of(self, found: Float[Tensor, "b c"], labels: Tensor) -> Float[Tensor, " b"]:
        return ((found[:, 0] - labels.to(found.dtype)) / self.unit) ** 2


class Standardised(nn.Module):
    """mean + unit z, of the numbers z that `network` gives: it learns at one pace, whatever labels
    are measured in."""

    def __init__(self, network: nn.Module, mean: float, unit: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float32))

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b 1"]:
        """A number for each row."""
        return self.mean + self.unit * self.network(tokens)
