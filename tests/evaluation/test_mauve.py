"""MAUVE against closed forms, scikit-learn's area and k-means of sets whose law is known."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc

from genodiff.errors import UserError
from genodiff.evaluation.mauve import area_of_histograms, mauve, number_of_buckets

SHARES = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)


def shares(counts: list[int]) -> np.ndarray:
    return np.array(counts) / sum(counts)


@settings(deadline=None, max_examples=40)
@given(SHARES, SHARES)
def test_the_area_is_between_its_extremes_and_symmetric(a: list[int], b: list[int]) -> None:
    p, q = shares(a), shares(b)
    area = area_of_histograms(p, q)
    assert area == pytest.approx(area_of_histograms(q, p), abs=1e-12)
    assert 1 / 252 - 1e-12 <= area <= 1 + 1e-12
    assert area_of_histograms(p, p) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_laws_without_a_bucket_in_common_have_one_over_a_binomial(scale: int) -> None:
    # The curve is x = (1 - w)^c, y = w^c; the integral of y dx is c B(c + 1, c).
    p, q = np.array([1.0, 0, 0]), np.array([0, 0.25, 0.75])
    fine = area_of_histograms(p, q, scale=float(scale), points=4001)
    assert fine == pytest.approx(1 / math.comb(2 * scale, scale), rel=1e-4)


def test_the_area_is_the_integral_of_the_curve() -> None:
    # Half of Q lies where P is not: KL(Q|R) and KL(P|R) by hand, and the area by Simpson's rule
    # over u = w.
    w = np.linspace(0, 1, 20001)[1:-1]
    r = np.stack([w + (1 - w) / 2, (1 - w) / 2])
    x = np.exp(-5 * (0.5 * np.log(0.5 / r[0]) + 0.5 * np.log(0.5 / r[1])))
    y = np.exp(-5 * -np.log(r[0]))
    expected = ((x[:-1] - x[1:]) * (y[:-1] + y[1:])).sum() / 2
    # What is left between the curve's ends and the axes: below it up to x(0) = 1 is y(0) = 1/32.
    found = area_of_histograms(np.array([1.0, 0]), np.array([0.5, 0.5]), points=20001)
    assert found == pytest.approx(expected, abs=1e-4)


def test_25_points_are_the_published_figure() -> None:
    # mauve-text 0.4.0's definition, with scikit-learn's area as it uses it; and the figures that
    # its functions give for the same histograms.
    p, q = shares([5, 1, 0, 4]), shares([2, 3, 4, 1])
    w = np.linspace(1e-6, 1 - 1e-6, 25)[:, None]
    r = w * p + (1 - w) * q
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.exp(-5 * np.nansum(q * np.log(q / r), 1))
        y = np.exp(-5 * np.nansum(np.where(p > 0, p * np.log(p / r), 0), 1))
    x, y = np.array([1, *x, 0]), np.array([0, *y, 1])
    expected = (auc(x[::-1], y[::-1]) + auc(y, x)) / 2
    assert area_of_histograms(p, q) == pytest.approx(expected, rel=1e-12)
    assert area_of_histograms(p, q) == pytest.approx(PUBLISHED[0], rel=1e-9)
    assert area_of_histograms(p, p[::-1]) == pytest.approx(PUBLISHED[1], rel=1e-9)


PUBLISHED = (0.22387546040643938, 0.761788289004194)


def normal(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, 6))
    vectors[:, 0] += shift
    return vectors


def test_two_sets_of_one_law_are_near_1_and_others_are_not() -> None:
    same, some, other = (
        mauve(normal(200, shift, seed=1), normal(200), resamples=20) for shift in (0, 2, 20)
    )
    assert same.buckets == 20
    assert same.area.value > 0.85 > some.area.value > other.area.value
    assert 1 / 252 < other.area.value < 0.02
    for found in (same, some):
        low, high = found.range_over_seeds
        assert low <= found.area.value <= high and low < high
        assert found.area.confidence_95 is not None
        assert 0 <= found.area.confidence_95[0] < found.area.confidence_95[1] <= 1
    again = mauve(normal(200, 2, seed=1), normal(200), resamples=20)
    assert again == some


def test_the_same_texts_are_1_however_few_are_different() -> None:
    vectors = normal(40)
    assert mauve(vectors, vectors).area.value == pytest.approx(1, abs=1e-12)
    collapsed = np.repeat(vectors[:1], 40, 0)
    assert mauve(collapsed, collapsed).area.value == pytest.approx(1, abs=1e-12)
    assert mauve(collapsed, vectors).area.value < 0.2


def test_the_bootstrap_error_is_the_spread_over_other_texts() -> None:
    # 15 pairs of sets of one law each; their spread is known to 19 % (one standard error).
    pairs = [(normal(60, 1, seed=2 * i), normal(60, seed=2 * i + 1)) for i in range(15)]
    found = [mauve(p, q, seeds=1, resamples=50).area for p, q in pairs]
    spread = np.std([each.value for each in found], ddof=1)
    error = np.mean([each.standard_error or 0.0 for each in found])
    assert 0.5 < error / spread < 2


def test_too_few_texts_are_refused() -> None:
    # mauve-text: max(2, int(round(n / 10)))
    assert [number_of_buckets(n) for n in (20, 24, 25, 26, 35, 39)] == [2, 2, 2, 3, 4, 4]
    with pytest.raises(UserError, match="19 sequences are too few for MAUVE"):
        mauve(normal(19), normal(200))


def test_without_scikit_learn_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[text\]'"):
        mauve(normal(20), normal(20))
