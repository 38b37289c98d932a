"""Block-causal networks: blocks of L' tokens, each of which sees itself and the blocks before it.

One network is two functions:

    hidden(x)               block b of x sees the blocks of x up to and including b
    hidden_given(x, clean)  block b of x sees itself, and the blocks of `clean` before b

A sampler calls the first on clean blocks with a noised one behind them. Training calls the second,
which gives in one pass for every block what the first gives block by block. Arriola et al. 2025
(BD3LM, arXiv:2503.09573), section 3.

Only the layers that mix positions know of it: they are told `Blocks`. In the one pass the batch is
[x ; clean], and `clean` goes through the network beside x as hidden(clean) does.

Since nothing before a block depends on it, a sequence can also be read in pieces, each behind what
a `Memory` holds of those before it:

    extend(x, memory)       hidden([what memory has read ; x]) at x

A causal network has blocks of one token; one that sees every position is one block.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from genodiff.backbones.base import Backbone, Inputs, padding_among, require_positive


class Memory:
    """What a network keeps of the tokens it has read: `length` of them a row.

    Each layer that mixes positions has its own tensors, with the rows on the first axis; the
    network changes them in place.
    """

    def __init__(self) -> None:
        self.length = 0
        self.padding: Tensor | None = None  # where it is, (b, length); None if there is none
        self.layers: dict[nn.Module, tuple[Tensor, ...]] = {}

    def rows(self, index: Int[Tensor, " r"]) -> "Memory":
        """A memory of those rows, apart from this one."""
        chosen = Memory()
        chosen.length = self.length
        chosen.padding = None if self.padding is None else self.padding[index]
        chosen.layers = {
            layer: tuple(x[index] for x in tensors) for layer, tensors in self.layers.items()
        }
        return chosen


class Reading(NamedTuple):
    """Tokens that are read behind, or amid, those of a memory."""

    memory: Memory
    start: int  # the position of the first of them
    keep: bool  # whether the memory is to hold them too

    def padding_with(self, tokens: Inputs, unseen_id: int | None) -> Bool[Tensor, "b n"] | None:
        """Where padding is among the tokens and those of the memory; None if there is none."""
        own, held = padding_among(tokens, unseen_id), self.memory.padding
        if own is None and held is None:
            return None
        end = self.start + tokens.shape[1]
        padding = torch.zeros(
            (len(tokens), max(end, self.memory.length)), dtype=torch.bool, device=tokens.device
        )
        if held is not None:
            padding[:, : held.shape[1]] = held
        padding[:, self.start : end] = False if own is None else own
        if self.keep:
            self.memory.padding = padding
        return padding


class Blocks(NamedTuple):
    """What a layer that mixes positions has to know."""

    length: int  # L'; the last block of a sequence may be shorter
    given: bool  # whether the batch is [x ; clean]
    reading: Reading | None = None
    padding: Bool[Tensor, "b n"] | None = None  # to be hidden; with a reading, of the memory too


class BlockCausal(Backbone):
    """A backbone whose positions see no later block; with `block_length=None`, every position, or
    no later one if it is `causal`."""

    block_length: int | None
    causal: bool

    @abc.abstractmethod
    def states(
        self,
        tokens: Inputs,
        sigma: Float[Tensor, "b #l"] | None,
        condition: Tensor | None,
        blocks: Blocks | None,
    ) -> Float[Tensor, "b l d"]:
        """The final, normalised hidden states; `blocks` is for the layers that mix positions."""

    def hidden(
        self,
        tokens: Inputs,
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The final, normalised hidden states."""
        length = self.block_length
        padding = padding_among(tokens, self.unseen_id, causal=self.causal)
        if length is None and padding is not None:
            length = 1 if self.causal else tokens.shape[1]
        blocks = None if length is None else Blocks(length, given=False, padding=padding)
        return self.states(tokens, sigma, condition, blocks)

    def hidden_given(
        self,
        tokens: Inputs,
        clean: Inputs,
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The hidden states of each block of `tokens`, given the blocks of `clean` before it.

        `sigma` is that of `tokens`; clean ones are told sigma = 0. Raises ValueError without a
        block_length.
        """
        if self.block_length is None:
            raise ValueError(
                f"this {type(self).__name__} has no blocks; build it with block_length=, e.g. 16."
            )
        both = None if sigma is None else torch.cat([sigma, torch.zeros_like(sigma)])
        rows = torch.cat([tokens, clean])
        padding = padding_among(rows, self.unseen_id)
        states = self.states(
            rows,
            both,
            None if condition is None else torch.cat([condition, condition]),
            Blocks(self.block_length, given=True, padding=padding),
        )
        return states[: len(tokens)]

    def begin(self) -> Memory:
        """The memory of having read nothing."""
        return Memory()

    @torch.no_grad()
    def extend(
        self,
        tokens: Inputs,
        memory: Memory,
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Float[Tensor, "b l d"]:
        """The hidden states of tokens that follow those that `memory` holds, any number of them.

        They are remembered too unless `keep` is False, as for a block that is still noised; what
        is kept should end with a block, or nothing can follow. No gradients. Raises ValueError for
        a network that is neither causal nor block-causal, and for a memory that ends within a
        block.
        """
        length = 1 if self.causal else self.block_length
        if length is None:
            raise ValueError(
                f"this {type(self).__name__} sees later tokens, so that what it has read is never "
                "finished; build a causal one, or one with block_length=."
            )
        if memory.length % length:
            raise ValueError(
                f"the memory holds {memory.length} tokens, which is within a block of {length}; "
                "keep whole blocks alone."
            )
        reading = Reading(memory, memory.length, keep)
        padding = reading.padding_with(tokens, self.unseen_id)
        states = self.states(tokens, sigma, condition, Blocks(length, False, reading, padding))
        if keep:
            memory.length += tokens.shape[1]
        return states


def require_block_length(block_length: int | None) -> None:
    """Raise UserError for a block_length below 1."""
    if block_length is not None:
        require_positive(block_length=block_length)


def each_block(
    mix: Callable[[Float[Tensor, "b l d"], Bool[Tensor, "b l"] | None], Float[Tensor, "b l d"]],
    x: Float[Tensor, "b l d"],
    padding: Bool[Tensor, "b l"] | None,
    length: int,
) -> Float[Tensor, "b l d"]:
    """`mix` of every block on its own: the blocks of a sequence become rows of the batch."""
    whole = x.shape[1] - x.shape[1] % length
    parts = []
    if whole:
        hidden = None if padding is None else _as_rows(padding[:, :whole], length)
        mixed = mix(_as_rows(x[:, :whole], length), hidden)
        parts.append(mixed.unflatten(0, (len(x), -1)).flatten(1, 2))
    if whole < x.shape[1]:
        parts.append(mix(x[:, whole:], None if padding is None else padding[:, whole:]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _as_rows(x: Shaped[Tensor, "b l *s"], length: int) -> Shaped[Tensor, "c m *s"]:
    """Each `length` of a sequence as a row of the batch."""
    return x.unflatten(1, (-1, length)).flatten(0, 1)
