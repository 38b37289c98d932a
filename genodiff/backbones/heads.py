"""`SequenceClassifier`: logits of a whole sequence, from pooled hidden states of a backbone."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genodiff.backbones.base import Backbone, require_positive
from genodiff.errors import UserError

Pool = Callable[[Tensor, Tensor], Tensor]
"""(hidden (b, l, d), where (b, l)) -> (b, d), of the positions `where`."""


class SequenceClassifier(nn.Module):
    """score(pool(hidden)), with a linear score without a bias; the mean of it over the strands.

    As the classifier of Caduceus (Schiff et al. 2024, arXiv:2403.03234, section 5.2): of a network
    that keeps two strands (`ReverseComplementEquivariant`, `StrandAveraged`) both are pooled and
    scored, each read in its own direction. With the equivariant one the logits of a sequence and
    of its reverse complement are equal; `StrandAveraged` of any other network is what the paper
    calls post-hoc conjoining.

    Args:
        network: the backbone; its head is not used.
        n_classes: logits a sequence.
        pooling: "mean", "max", "first" or "last" of the positions that count.
        pad_id: tokens of this id do not count; None if all do, as published.
    """

    def __init__(
        self,
        network: Backbone,
        n_classes: int,
        *,
        pooling: str = "mean",
        pad_id: int | None = None,
    ) -> None:
        super().__init__()
        require_positive(n_classes=n_classes)
        if pooling not in POOLS:
            raise UserError(f"pooling={pooling} is unknown; use {', '.join(POOLS)}.")
        self.network = network
        self.pad_id = pad_id
        self.pool = POOLS[pooling]
        self.score = nn.Linear(network.d_strand, n_classes, bias=False)
        nn.init.normal_(self.score.weight, std=0.02)

    def features(
        self, tokens: Int[Tensor, "b l"], where: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b d"]:
        """What is scored: the pooled hidden states, their mean over the strands.

        `where` are the positions that count; None for all but those of `pad_id`. Raises ValueError
        for a sequence none of whose positions count.
        """
        if where is None:
            where = tokens != (-1 if self.pad_id is None else self.pad_id)
        if not bool(where.any(-1).all()):
            raise ValueError("a sequence has no position that counts; leave empty sequences out")
        strands = self.network.strands(tokens)
        pooled = [
            self.pool(hidden, place)
            for hidden, place in zip(strands, (where, where.flip(1)), strict=False)
        ]
        return torch.stack(pooled).mean(0)

    def forward(
        self, tokens: Int[Tensor, "b l"], where: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b c"]:
        """Logits: the score of the `features`, which is the mean of the strands' scores."""
        return self.score(self.features(tokens, where))


def _mean(hidden: Tensor, where: Tensor) -> Tensor:
    counts = where.unsqueeze(-1).to(hidden.dtype)
    return (hidden * counts).sum(1) / counts.sum(1)


def _max(hidden: Tensor, where: Tensor) -> Tensor:
    return hidden.masked_fill(~where.unsqueeze(-1), -torch.inf).amax(1)


def _first(hidden: Tensor, where: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), where.int().argmax(1)]


def _last(hidden: Tensor, where: Tensor) -> Tensor:
    return _first(hidden.flip(1), where.flip(1))


POOLS: dict[str, Pool] = {"mean": _mean, "max": _max, "first": _first, "last": _last}
