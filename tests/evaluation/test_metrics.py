"""Metrics against scikit-learn and scipy, and their intervals."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from genodiff.evaluation.metrics import (
    METRICS,
    accuracy,
    f1,
    items_95,
    matthews,
    pearson,
    spearman,
)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_scores_of_classes_are_those_of_scikit_learn(n_classes: int) -> None:
    random = np.random.default_rng(n_classes)
    labels = random.integers(0, n_classes, 200)
    told = np.where(random.random(200) < 0.6, labels, random.integers(0, n_classes, 200))
    assert matthews(told, labels) == pytest.approx(matthews_corrcoef(labels, told), abs=1e-12)
    assert accuracy(told, labels) == pytest.approx(np.mean(told == labels))
    if n_classes == 2:
        assert f1(told, labels) == pytest.approx(f1_score(labels, told), abs=1e-12)


def test_scores_of_numbers_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    labels = np.round(random.normal(0, 1, 300), 1)  # with equal ones
    told = labels + np.round(random.normal(0, 1, 300), 1)
    assert pearson(told, labels) == pytest.approx(stats.pearsonr(told, labels)[0], abs=1e-12)
    assert spearman(told, labels) == pytest.approx(stats.spearmanr(told, labels)[0], abs=1e-12)


def test_a_constant_tells_nothing() -> None:
    labels, same = np.array([0, 1, 1, 0]), np.zeros(4, np.int64)
    assert matthews(same, labels) == 0 and f1(same, labels) == 0
    assert f1(same, same) == 0 and matthews(labels, labels) == 1 and f1(labels, labels) == 1
    numbers = np.array([0.5, 1.0, 2.0])
    assert pearson(np.full(3, 0.1), numbers) == 0 and spearman(np.full(3, 2.0), numbers) == 0
    assert pearson(-numbers, numbers) == pytest.approx(-1)


@pytest.mark.slow
def test_an_interval_over_items_covers_what_it_says() -> None:
    """Correlation 0.6 of 150 pairs: of 200 sets, a 95 % interval misses 10; false alarm (24 or
    more, where percentiles miss 6.5 %) 0.3 %."""
    random = np.random.default_rng(1)
    missed = 0
    for _ in range(200):
        labels = random.normal(0, 1, 150)
        told = 0.6 * labels + 0.8 * random.normal(0, 1, 150)
        low, high = items_95("pearson", told, labels)
        missed += not low < 0.6 < high
    assert missed < 24


@pytest.mark.parametrize("metric", ["f1", "matthews", "spearman"])
def test_intervals_are_always_the_same_and_around_the_figure(metric: str) -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 120)
    told = np.where(random.random(120) < 0.8, labels, 1 - labels)
    low, high = items_95(metric, told, labels)
    assert (low, high) == items_95(metric, told, labels)
    assert low < METRICS[metric](told, labels) < high < 1
