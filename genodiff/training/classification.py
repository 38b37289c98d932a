"""Classifiers as models of one objective more: the cross-entropy of a sequence's label."""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from genodiff.diffusion import Objective


class NothingDrawn(NamedTuple):
    """Classifying is not random."""


class Classification(Objective[NothingDrawn]):
    """-log p(label | sequence), one number a row; the model gives logits (b, c) of tokens."""

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
            raise ValueError("a batch without labels cannot be classified")
        return F.cross_entropy(model(x0).float(), condition, reduction="none")[:, None]
