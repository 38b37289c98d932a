"""A linear probe finds what is linear, and chance where there is nothing."""

import sys

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation.probe import Features, linear_probe


def some(n: int, seed: int, n_classes: int) -> Features:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    centres = np.random.default_rng(9).normal(size=(n_classes, 5)) * 3
    return Features(centres[labels] + rng.normal(size=(n, 5)), labels)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_that_lie_apart_are_told_apart(n_classes: int) -> None:
    train, valid, test = (some(n, seed, n_classes) for n, seed in ((200, 0), (50, 1), (200, 2)))
    found = linear_probe(train, valid, test)
    assert found.test.shape == (200, n_classes) and found.valid.shape == (50, n_classes)
    assert (found.test.argmax(-1) == test.labels).mean() > 0.95


def test_labels_that_mean_nothing_are_chance() -> None:
    rng = np.random.default_rng(3)
    parts = [Features(rng.normal(size=(n, 5)), rng.integers(0, 2, n)) for n in (400, 100, 1000)]
    accuracy = (linear_probe(*parts).test.argmax(-1) == parts[2].labels).mean()
    assert abs(accuracy - 0.5) < 4 * 0.5 / 1000**0.5


def test_a_class_that_training_lacks_is_never_told_and_shifts_no_other() -> None:
    train, valid, test = (some(n, seed, 3) for n, seed in ((300, 0), (50, 1), (200, 2)))
    for missing in range(3):
        kept = train.labels != missing
        found = linear_probe(Features(train.vectors[kept], train.labels[kept]), valid, test)
        told, known = found.test.argmax(-1), test.labels != missing
        assert found.test.shape == (200, 3) and not (told == missing).any()
        assert (told[known] == test.labels[known]).mean() > 0.8  # of classes shifted, 0 to 0.5
    one = Features(train.vectors[train.labels == 1], train.labels[train.labels == 1])
    with pytest.raises(UserError, match="all sequences that train it are of one"):
        linear_probe(one, valid, test)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    train, valid, test = (some(n, seed, 2) for n, seed in ((200, 0), (50, 1), (200, 2)))
    constant = [
        Features(np.c_[f.vectors, np.ones(len(f.labels))], f.labels) for f in (train, valid, test)
    ]
    assert np.isfinite(linear_probe(*constant).test).all()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[downstream\]'"):
        linear_probe(*(some(9, seed, 2) for seed in range(3)))
