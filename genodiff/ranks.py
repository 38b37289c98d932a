"""Work that several processes share: each does its part of it, and then all have the whole."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch.distributed

T = TypeVar("T")


class Ranks(NamedTuple):
    """The processes that share work, this one among them. More than one of them are the default
    process group of torch.distributed, and all call `together` equally often.

    rank: this process', from 0. size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def mine(self, items: Iterable[T]) -> list[T]:
        """This process' part of items that are the same in every process."""
        return list(items)[self.rank :: self.size]

    def together(self, mine: Sequence[T]) -> list[T]:
        """What all processes have made of their parts, in the order of the whole."""
        if self.size == 1:
            return list(mine)
        parts: list[Sequence[T]] = [()] * self.size
        torch.distributed.all_gather_object(parts, mine)
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]


ALONE = Ranks()


def is_first() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of torchrun; of Lightning too; of SLURM
    return all(os.environ.get(rank, "0") == "0" for rank in ranks)
