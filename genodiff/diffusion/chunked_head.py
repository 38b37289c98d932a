"""The head of a network where its logits are needed, and no more of them at once than fit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genodiff.diffusion.linear_head import log_softmax_at
from genodiff.diffusion.process import log_indicator

# Logits in float32 that exist at once while a likelihood is computed: 64 MiB.
LOGITS_AT_ONCE = 1 << 24


@runtime_checkable
class WithHead(Protocol):
    """A network whose logits at a position follow from its hidden state there."""

    def hidden(self, *arguments: Tensor | None) -> Tensor: ...

    def head(self, hidden: Tensor) -> Tensor: ...


@runtime_checkable
class WithLinearHead(WithHead, Protocol):
    """A network whose head is one linear layer: of it no logits need be computed twice."""

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        """The weight (k, d) and the bias (k,) of `head`; None if it is not linear after all."""
        ...


@dataclass(frozen=True)
class Readout:
    """What a network says at m positions: states, and the head that makes logits of them."""

    states: Float[Tensor, "m d"]
    head: Callable[[Tensor], Tensor]  # (n, d) -> (n, k), in float32 at least
    vocab_size: int
    linear: tuple[Tensor, Tensor | None] | None = None  # weight and bias, if that is the head
    counts: Float[Tensor, " m"] | None = None  # of each row in a loss, up to a common factor

    def logits(self) -> Float[Tensor, "m k"]:
        """All of them, in float32 at least."""
        return self.head(self.states)

    def by_row(
        self, read: Callable[..., Float[Tensor, "n *s"]], *rows: Tensor
    ) -> Float[Tensor, "m *s"]:
        """read(logits, *rows), which takes each row for itself; see `in_chunks`."""
        return in_chunks(
            lambda states, *rows: read(self.head(states), *rows),
            self.vocab_size,
            *(self.states, *rows),
        )

    def log_softmax_at(
        self,
        tokens: Int[Tensor, " m"],
        data_ids: tuple[int, ...] | None = None,
    ) -> Float[Tensor, " m"]:
        """log p of a token a row, by a softmax over `data_ids`; None for over all tokens."""
        size = _rows_at_once(self.vocab_size)
        if self.linear is not None and len(tokens) > size:
            weight, bias = self.linear
            offset = weight.new_zeros(len(weight)) if bias is None else bias
            if data_ids is not None:
                offset = offset + log_indicator(offset, data_ids)
            # MKL takes longer for numbers of rows that are no multiple of 16.
            size = size // 64 * 64 or size
            head = (self.states, weight, offset)
            return log_softmax_at(tokens, *head, counts=self.counts, rows_at_once=size)

        def read(logits: Tensor, tokens: Tensor) -> Tensor:
            if data_ids is not None:
                logits = logits + log_indicator(logits, data_ids)
            return -F.cross_entropy(logits, tokens, reduction="none")

        return self.by_row(read, tokens)


def readout_at(
    network: nn.Module,
    arguments: tuple[Tensor | None, ...],
    where: Bool[Tensor, "b l"],
    vocab_size: int,
) -> Readout:
    """What network(*arguments) says at `where`.

    Of a network that has no head, states are the logits.
    """
    candidate: object = network  # pyright would narrow nn.Module to its __getattr__
    if not isinstance(candidate, WithHead):
        logits = raised(network(*arguments), vocab_size)
        return Readout(_select(logits, where), lambda logits: logits, vocab_size)
    head = candidate.head
    states = _select(candidate.hidden(*arguments), where)
    linear = linear_head_of(network)
    if linear is not None:
        _require_logits(len(linear[0]), vocab_size)
    return Readout(states, lambda states: raised(head(states), vocab_size), vocab_size, linear)


def linear_head_of(network: object) -> tuple[Tensor, Tensor | None] | None:
    """The weight and the bias of its head, if it says that it is linear."""
    return network.linear_head() if isinstance(network, WithLinearHead) else None


def raised(logits: Float[Tensor, "*s k"], vocab_size: int) -> Float[Tensor, "*s k"]:
    """The logits in float32 at least; ValueError unless there is one for each token."""
    _require_logits(logits.shape[-1], vocab_size)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def in_chunks(
    read: Callable[..., Float[Tensor, "m *s"]], vocab_size: int, *rows: Tensor
) -> Float[Tensor, "m *s"]:
    """read(*rows), of which every row takes `vocab_size` logits; in chunks where all of them at
    once would be large.

    The backward pass computes a chunk again, so that never more than one chunk's logits exist.
    """
    size = _rows_at_once(vocab_size)
    if len(rows[0]) <= size:
        return read(*rows)
    chunks = zip(*(x.split(size) for x in rows), strict=True)
    return torch.cat(
        [checkpoint(read, *c, use_reentrant=False, preserve_rng_state=False) for c in chunks]
    )


def _rows_at_once(vocab_size: int) -> int:
    return max(1, LOGITS_AT_ONCE // vocab_size)


def _require_logits(n: int, vocab_size: int) -> None:
    if n != vocab_size:
        raise ValueError(
            f"the network gives {n} logits a token, and vocab_size={vocab_size}; "
            "give the network's vocab_size, padding included."
        )


def _select(states: Float[Tensor, "b l d"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "m d"]:
    """states[where], by one index: the backward pass of the other sorts its indices."""
    return states.flatten(0, 1).index_select(0, where.flatten().nonzero()[:, 0])
