import math

import numpy as np
import pytest
from scipy.stats import t

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import (
    bits,
    n_clusters,
    perplexity,
    ratio_standard_error,
    student_975,
    student_p_value,
)


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 10, 64, 1000])
def test_the_quantile_is_students(freedom: int) -> None:
    # the expansion's error at 3 degrees of freedom is 0.12 %, and falls fast
    assert student_975(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=2e-3)


def test_with_equal_weights_the_ratio_error_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=50)
    expected = values.std(ddof=1) / math.sqrt(50)
    assert ratio_standard_error(values, np.ones(50)) == pytest.approx(expected)


def test_copies_within_a_cluster_do_not_shrink_the_error() -> None:
    values, weights = np.random.default_rng(1).normal(size=(2, 20)) ** 2
    once = ratio_standard_error(values, weights)
    thrice = ratio_standard_error(
        np.repeat(values, 3), np.repeat(weights, 3), np.repeat(range(20), 3).tolist()
    )
    assert thrice == pytest.approx(once)


def test_the_ratio_error_is_the_spread_of_the_ratio_over_fresh_clusters() -> None:
    # Relative error of a standard deviation from 2,000 replicates is 1.6 %; the linearisation at
    # 60 clusters adds about as much. 6 % is over three of those.
    random = np.random.default_rng(2)
    ratios, errors = [], []
    for _ in range(2000):
        weights = random.gamma(3, size=60)
        totals = weights * (1 + 0.3 * random.normal(size=60))
        ratios.append(totals.sum() / weights.sum())
        errors.append(ratio_standard_error(totals, weights))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(ratios), rel=0.06)


def test_items_of_weight_zero_do_not_count() -> None:
    totals, weights = np.array([1.0, 2.0, 0.0, 4.0]), np.array([1.0, 1.0, 0.0, 2.0])
    kept = [0, 1, 3]
    assert ratio_standard_error(totals, weights) == ratio_standard_error(
        totals[kept], weights[kept]
    )
    assert n_clusters(weights) == 3


def test_fewer_than_two_clusters_have_no_error() -> None:
    assert ratio_standard_error(np.ones(4), np.ones(4), [7, 7, 7, 7]) is None
    assert ratio_standard_error(np.ones(1), np.ones(1)) is None


def test_every_column_has_its_error() -> None:
    totals = np.random.default_rng(3).normal(size=(30, 4))
    both = ratio_standard_error(totals, np.ones(30))
    assert both is not None
    assert both[2] == pytest.approx(ratio_standard_error(totals[:, 2], np.ones(30)))


def test_one_label_a_sequence_is_asked_for() -> None:
    with pytest.raises(UserError, match="3 cluster labels for 4 sequences"):
        ratio_standard_error(np.ones(4), np.ones(4), [0, 1, 2])


def test_units() -> None:
    assert perplexity(math.log(4)) == pytest.approx(4)
    assert bits(math.log(4)) == pytest.approx(2)
    assert perplexity(1e6) == math.inf


@pytest.mark.parametrize("freedom", [1.0, 2.5, 4.0, 11.0, 200.0])
def test_a_p_value_of_students_t_is_scipys_within_a_tenth(freedom: float) -> None:
    values = np.array([0.0, -0.5, 1.0, 2.0, -4.0])
    expected = 2 * t.sf(np.abs(values), freedom)
    found = student_p_value(values, np.full(len(values), freedom))
    assert found == pytest.approx(expected, rel=0.1)
