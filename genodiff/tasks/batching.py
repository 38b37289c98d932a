"""Which designs of many regions are drawn together."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple, final

BLOCK = 1 << 26
"""Bases of the designs among which those of one batch are looked for, and which are put back into
order together. Another number would make other batches, and so other designs."""


class Ask(NamedTuple):
    """What is asked of a region's designs. Those of two regions can be drawn together where all
    but `unknown` is equal."""

    length: int
    """With flanks."""
    constraints: bytes
    """A digest of what holds at which positions; empty for nothing."""
    unknown: int
    """The bases to be written that are N in the genome."""


@final
class Plan:
    """The batches of all designs, in the order in which they are drawn.

    Designs are numbered as their regions come: those of region i are i num_samples to
    (i + 1) num_samples - 1. Numbers that follow each other, of `BLOCK` bases together, are a
    block, and a batch is of designs of one block that can be drawn together: all batches are full
    but the last of each kind in each block.
    """

    def __init__(self, asks: Sequence[Ask], num_samples: int, batch_size: int):
        self._asks, self._num_samples, self._batch_size = asks, num_samples, batch_size

    @property
    def n_designs(self) -> int:
        """All of them."""
        return len(self._asks) * self._num_samples

    @cached_property
    def n_batches(self) -> int:
        """All of them."""
        return sum(1 for _ in self.batches())

    def blocks(self) -> Iterator[range]:
        """The numbers of each block."""
        begin, bases = 0, 0
        for number in range(self.n_designs):
            bases += self._asks[number // self._num_samples].length
            if bases >= BLOCK or number == self.n_designs - 1:
                yield range(begin, number + 1)
                begin, bases = number + 1, 0

    def batches_of(self, block: range) -> list[list[int]]:
        """The numbers of each batch of a block."""
        alike: dict[tuple[int, bytes], list[int]] = {}
        for number in block:
            ask = self._asks[number // self._num_samples]
            alike.setdefault((ask.length, ask.constraints), []).append(number)
        return [
            numbers[first : first + self._batch_size]
            for numbers in alike.values()
            for first in range(0, len(numbers), self._batch_size)
        ]

    def batches(self) -> Iterator[list[int]]:
        """The numbers of each batch."""
        return chain.from_iterable(map(self.batches_of, self.blocks()))
