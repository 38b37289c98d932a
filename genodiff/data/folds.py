"""Which sequences of a training set train a classifier, and which choose or test it.

Sequences are told by their numbers. Every function gives the same parts for the same arguments on
every machine.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import random_split

from genodiff.data.randomness import hash_counters
from genodiff.errors import UserError

_VALID_PART = 10  # a tenth chooses the epoch, as in the published protocol


class PaperSplit(NamedTuple):
    """Numbers of the sequences that train, and of the tenth that chooses the epoch."""

    train: Int64[np.ndarray, "t"]
    valid: Int64[np.ndarray, "v"]


class Fold(NamedTuple):
    """Numbers of the sequences that train, choose the epoch and test, each in ascending order."""

    train: Int64[np.ndarray, "t"]
    valid: Int64[np.ndarray, "v"]
    test: Int64[np.ndarray, "w"]


def paper_split(n: int, seed: int) -> PaperSplit:
    """Caduceus' split of n training sequences (Schiff et al. 2024, arXiv:2403.03234, section 5.3):
    `random_split` into 0.1 and 0.9, the first of which validates. It takes no care of copies.

    Theirs is of files in the order in which a file system lists them; sort yours.

    Raises:
        UserError: fewer than two sequences.
    """
    if n < 2:
        raise UserError(f"{n} training sequences cannot be split; give 2 or more.")
    random = torch.Generator().manual_seed(seed)
    valid, train = random_split(range(n), [0.1, 0.9], random)  # pyright: ignore[reportArgumentType]
    return PaperSplit(np.array(train.indices, np.int64), np.array(valid.indices, np.int64))


def stratified_group_folds(
    labels: Int64[np.ndarray, "n"], groups: Int64[np.ndarray, "n"], k: int, seed: int
) -> list[Fold]:
    """k folds; each sequence tests once. Groups stay together, as near as they allow every class
    has the same share in each part, and a tenth of what does not test validates.

    A class of fewer groups than parts is missing in some of them.

    Raises:
        UserError: k below 2, or too few groups for every fold to train, validate and test.
    """
    if k < 2:
        raise UserError(f"folds={k} leaves nothing to train or to test with; give 2 or more.")
    too_few = UserError(
        f"{len(labels)} sequences in {len(np.unique(groups))} groups of copies cannot make {k} "
        "folds that train, validate and test; give fewer folds, or more sequences."
    )
    if len(np.unique(groups)) < k:
        raise too_few
    part_of = _parts(labels, groups, k, seed)
    folds = []
    for fold in range(k):
        rest = np.flatnonzero(part_of != fold)
        parts = _parts(labels[rest], groups[rest], _VALID_PART, seed)
        sizes = np.bincount(parts)
        if len(sizes) < 2:
            raise too_few
        validates = parts == np.abs(sizes - sizes.mean()).argmin()  # a large group may fill others
        folds.append(Fold(rest[~validates], rest[validates], np.flatnonzero(part_of == fold)))
    return folds


def _parts(
    labels: Int64[np.ndarray, "n"], groups: Int64[np.ndarray, "n"], k: int, seed: int
) -> Int64[np.ndarray, "n"]:
    """Numbers 0 to k - 1 (less where there are fewer groups), the same within a group.

    The largest group first, equal ones in an order by the seed, each goes where the sum over
    classes of squared shares grows least; of equal parts, to the smallest.
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    _, class_of = np.unique(labels, return_inverse=True)
    n_classes = class_of.max() + 1
    counts = np.bincount(group_of * n_classes + class_of, minlength=len(sizes) * n_classes)
    counts = counts.reshape(-1, n_classes)
    pull = counts / counts.sum(0) ** 2
    k = min(k, len(sizes))
    filled = np.zeros((k, n_classes))
    part_of_group = np.zeros(len(sizes), np.int64)
    for group in np.lexsort((hash_counters(seed, np.arange(len(sizes))), -sizes)):
        growth = filled @ pull[group]
        part = np.lexsort((filled.sum(1), growth))[0]
        part_of_group[group] = part
        filled[part] += counts[group]
    return part_of_group[group_of]
