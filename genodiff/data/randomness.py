"""Random numbers that are a function of their coordinates, so that it does not matter who draws
them, or when.

The order of training and the augmentation of a window must be the same under any number of workers
and processes, and after a resume. They are therefore hashes of (seed, epoch, index), not draws
from a generator with a state.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 8


class Stream(IntEnum):
    """What a number is for: the counter after the seed, so that no two uses share their bits."""

    ORDER = 0
    STRAND = 1
    JITTER = 2


def hash_counters(*counters: Any) -> UInt64[np.ndarray, "*s"]:
    """64 random bits for each tuple of integers; the counters broadcast.

    A chain of the mixing step of splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom
    number generators", with the constants of Stafford's variant 13), exact on every platform.
    """
    with np.errstate(over="ignore"):
        state = np.zeros((), dtype=np.uint64)
        for counter in counters:
            state = _mix((state + _GOLDEN) ^ np.asarray(counter).astype(np.uint64))
    return np.asarray(state)  # numpy makes scalars of arrays without axes


def integers_below(bound: Int64[np.ndarray, "*s"], *counters: Any) -> Int64[np.ndarray, "*s"]:
    """Integers in [0, bound), one for each tuple of counters, uniform to within bound / 2^53."""
    uniform = (hash_counters(*counters) >> np.uint64(11)) * 2.0**-53
    return np.minimum((uniform * bound).astype(np.int64), bound - 1)


def permute(index: Int64[np.ndarray, "b"], n: int, *key: int) -> Int64[np.ndarray, "b"]:
    """Where a permutation of range(n), chosen by `key`, sends each index. No table of n numbers is
    made.

    A Feistel network over the next power of four (Luby and Rackoff 1988), walked until it is back
    in range(n) (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): about 4 steps at
    most on average.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    out = index.astype(np.uint64)
    outside = np.ones(index.shape, dtype=bool)
    while outside.any():
        out[outside] = _feistel(out[outside], half, key)
        outside = out >= n
    return out.astype(np.int64)


def _feistel(
    value: UInt64[np.ndarray, "b"], half: int, key: tuple[int, ...]
) -> UInt64[np.ndarray, "b"]:
    mask = np.uint64((1 << half) - 1)
    left, right = value >> np.uint64(half), value & mask
    for round_ in range(_FEISTEL_ROUNDS):
        left, right = right, left ^ (hash_counters(*key, round_, right) & mask)
    return (left << np.uint64(half)) | right


def _mix(z: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
