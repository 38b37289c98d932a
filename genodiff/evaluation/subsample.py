"""Random sub-samples of streams, for statistics whose cost or memory grows with what they read."""

import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def subsample(items: Iterable[T], limit: int, seed: int) -> tuple[list[T], int]:
    """`limit` items in their order, every choice being equally likely (or all, if they are no
    more), and how many there were.

    Vitter's algorithm R (1985, "Random sampling with a reservoir"), which holds no more than it
    keeps.
    """
    draw = random.Random(seed)
    kept: list[tuple[int, T]] = []
    given = 0
    for given, item in enumerate(items, start=1):
        if given <= limit:
            kept.append((given, item))
        elif (place := draw.randrange(given)) < limit:
            kept[place] = (given, item)
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])], given
