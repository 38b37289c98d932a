import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation.resampling import Resampled, difference, independent, unit_weights


def resampled_mean(values: np.ndarray, seed: int = 0) -> Resampled:
    weights = unit_weights(np.arange(len(values)), 2000, seed).astype(np.float64)
    return Resampled(float(values.mean()), values @ weights / weights.sum(0), len(values))


def test_weights_are_a_unit_s_own() -> None:
    """Whatever else is in the block, and on every platform the same."""
    weights = unit_weights(np.array([3, 8, 3, 1]), 50, seed=1)
    assert (weights[0] == weights[2]).all() and (weights[0] != weights[1]).all()
    np.testing.assert_array_equal(weights[1:2], unit_weights(np.array([8]), 50, seed=1))
    assert (unit_weights(np.array([8]), 50, seed=2) != weights[1]).all()


def test_weights_have_mean_and_variance_one() -> None:
    weights = unit_weights(np.arange(500), 200, seed=0)
    assert weights.mean() == pytest.approx(1, abs=0.013)  # four standard errors
    assert weights.var() == pytest.approx(1, abs=0.036)  # of the variance: sqrt(8 / 100,000)
    assert (weights > 0).all()


@pytest.mark.parametrize("n", [4, 30])
def test_the_error_of_a_mean_is_the_usual_one(n: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    expected = values.std(ddof=1) / np.sqrt(n)
    # 2,000 resamples: a standard error of 1.6 %, and more for heavier tails
    assert resampled_mean(values).standard_error == pytest.approx(expected, rel=0.08)


def test_a_difference_has_both_errors_and_welch_s_interval() -> None:
    from scipy.stats import ttest_ind

    random = np.random.default_rng(1)
    a, b = random.normal(size=30), random.normal(0.8, 2, size=12)
    found = difference(resampled_mean(a), resampled_mean(b))
    expected = ttest_ind(a, b, equal_var=False).confidence_interval()
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.confidence_95 == pytest.approx((expected.low, expected.high), abs=0.2)
    assert found.summary()["confidence_95"] == list(found.confidence_95)


def test_sets_of_one_seed_are_brought_out_of_step() -> None:
    values = np.random.default_rng(2).normal(size=200)
    mean = resampled_mean(values)
    off = mean.resampled - mean.value
    again = independent(mean.resampled) - mean.value
    assert abs(np.corrcoef(off, again)[0, 1]) < 4 / np.sqrt(2000)
    assert sorted(again) == sorted(off)


def test_figures_without_any_spread_are_equal_or_not() -> None:
    one, other = (Resampled(value, np.full(10, value), 5) for value in (1.0, 2.0))
    assert difference(one, one).p_value == 1
    assert difference(one, other).p_value == 0


def test_a_single_unit_has_no_error() -> None:
    alone = Resampled(1.0, np.ones(5), 1)
    assert alone.measure == (1.0, None, None)
    with pytest.raises(UserError, match="1 independent sequence cannot tell"):
        difference(alone, alone)
