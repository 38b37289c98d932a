"""Splits and folds: what is published, and what must hold of any labels and groups."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data.folds import paper_split, stratified_group_folds
from genodiff.errors import UserError


def test_the_papers_split_is_torchs_with_validation_first() -> None:
    # random_split deals a permutation; the numbers are torch's, on every platform, for seed 1
    split = paper_split(20, 1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1)).tolist()
    assert [*split.valid, *split.train] == order and split.valid.tolist() == [5, 13]
    assert sorted([*split.train, *split.valid]) == list(range(20))
    assert len(paper_split(27_097, 3).valid) == 2710  # the odd ones go to the first part


def test_a_split_of_one_sequence_is_refused() -> None:
    with pytest.raises(UserError, match="1 training sequences cannot be split"):
        paper_split(1, 1)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_folds_are_disjoint_cover_all_and_keep_groups_together(
    items: list[tuple[int, int]], k: int, seed: int
) -> None:
    labels, groups = np.array(items, np.int64).T
    n_groups = len(np.unique(groups))
    if n_groups < max(k, 3):
        with pytest.raises(UserError, match=f"in {n_groups} groups of copies cannot make {k}"):
            stratified_group_folds(labels, groups, k, seed)
        return
    try:
        folds = stratified_group_folds(labels, groups, k, seed)
    except UserError:
        assert k == 2  # with more folds, two groups are always left to train and validate
        return
    assert len(folds) == k
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(labels)))
    for fold in folds:
        assert sorted(i for part in fold for i in part) == list(range(len(labels)))
        assert all(len(part) for part in fold)
        in_parts = [set(groups[part].tolist()) for part in fold]
        assert sum(map(len, in_parts)) == n_groups


@given(st.lists(st.integers(0, 3), min_size=30, max_size=200), st.integers(2, 6))
def test_without_copies_every_class_is_dealt_evenly(classes: list[int], k: int) -> None:
    labels = np.array(classes, np.int64)
    folds = stratified_group_folds(labels, np.arange(len(labels)), k, seed=0)
    counts = np.array([np.bincount(labels[fold.test], minlength=4) for fold in folds])
    assert (np.ptp(counts, axis=0) <= 1).all()
    for fold in folds:
        rest = np.bincount(labels, minlength=4) - np.bincount(labels[fold.test], minlength=4)
        valid = np.bincount(labels[fold.valid], minlength=4)
        assert (np.abs(valid - rest / 10) < 1).all()


def test_a_large_group_does_not_empty_a_class_elsewhere() -> None:
    groups = np.concatenate([np.zeros(40, np.int64), np.arange(1, 161)])
    labels = np.arange(200) % 2
    folds = stratified_group_folds(labels, groups, 5, seed=1)
    assert [np.bincount(labels[fold.test]).tolist() for fold in folds] == [[20, 20]] * 5
    # 160 or 120 others are left to train with, and a tenth of them chooses the epoch
    assert {len(fold.valid) for fold in folds} <= {13, 14, 15, 16}


def test_the_seed_chooses_the_folds_and_nothing_else_does() -> None:
    labels = np.arange(50) % 2
    one, same, other = (
        stratified_group_folds(labels, np.arange(50), 5, seed) for seed in (1, 1, 2)
    )
    assert all(
        (a == b).all() for x, y in zip(one, same, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert any((x.test != y.test).any() for x, y in zip(one, other, strict=True))


def test_one_fold_is_refused() -> None:
    with pytest.raises(UserError, match="folds=1 leaves nothing"):
        stratified_group_folds(np.arange(9), np.arange(9), 1, seed=0)
