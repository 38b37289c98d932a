"""Entropies, distinct-n and repetition against counting by hand and against simulated texts."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.errors import UserError
from genodiff.evaluation import text_statistics
from genodiff.evaluation.text_statistics import Measure

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=6).filter(
    lambda texts: any(len(text) >= 4 for text in texts)
)


def arrays(texts: list[list[int]]) -> list[np.ndarray]:
    return [np.array(text, np.int64) for text in texts]


def entropy(counts: Counter[int]) -> float:
    total = counts.total()
    return -sum(c / total * math.log(c / total) for c in counts.values())


@settings(deadline=None, max_examples=40)
@given(TEXTS)
def test_figures_are_those_counted_one_by_one(texts: list[list[int]]) -> None:
    found = text_statistics(arrays(texts))
    entropies = [entropy(Counter(text)) for text in texts if text]
    assert found.entropy.value == pytest.approx(np.mean(entropies), abs=1e-12)
    pooled = entropy(Counter(token for text in texts for token in text))
    assert found.pooled_entropy.value == pytest.approx(pooled, abs=1e-12)
    for n in range(1, 5):
        grams = [
            [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
            for text in texts
            if len(text) >= n
        ]
        every = [gram for text in grams for gram in text]
        assert found.distinct[n - 1].value == pytest.approx(len(set(every)) / len(every))
        repeated = [
            sum(gram in text[:i] for i, gram in enumerate(text)) / len(text) for text in grams
        ]
        assert found.repetition[n - 1].value == pytest.approx(np.mean(repeated), abs=1e-12)


def test_extremes_are_known_in_closed_form() -> None:
    same, different = np.zeros(32, np.int64), np.arange(32)
    of_one = text_statistics([same, same, same])
    assert of_one.entropy.value == of_one.pooled_entropy.value == 0
    assert of_one.distinct[1].value == pytest.approx(1 / (3 * 31))
    assert of_one.repetition[3].value == pytest.approx(1 - 1 / 29)
    of_all = text_statistics([different, different + 32])
    assert of_all.entropy.value == pytest.approx(math.log(32))
    assert of_all.pooled_entropy.value == pytest.approx(math.log(64))
    assert [each.value for each in of_all.distinct] == [1, 1, 1, 1]
    assert [each.value for each in of_all.repetition] == [0, 0, 0, 0]


@settings(deadline=None, max_examples=20)
@given(TEXTS.filter(lambda texts: sum(len(text) >= 4 for text in texts) > 1))
def test_errors_of_pooled_figures_are_the_jackknife_done_by_hand(texts: list[list[int]]) -> None:
    texts = [text for text in texts if len(text) >= 4]

    def by_hand(name: str) -> tuple[float, float]:
        def value(of: list[list[int]]) -> float:
            found = text_statistics(arrays(of))
            return (found.pooled_entropy if name == "pooled" else found.distinct[1]).value

        left_out = np.array([value(texts[:i] + texts[i + 1 :]) for i in range(len(texts))])
        n = len(texts)
        return value(texts), math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())

    found = text_statistics(arrays(texts))
    for name, measure in (("pooled", found.pooled_entropy), ("distinct", found.distinct[1])):
        assert (measure.value, measure.standard_error) == pytest.approx(by_hand(name), abs=1e-9)


def test_intervals_hold_what_other_texts_of_the_same_law_would_give() -> None:
    # 100 sets of 30 texts, each text with a rate of its own. 95 % intervals for the mean over
    # sets hold it in 95 sets on average; in 84 or fewer, of one of the four figures, once in
    # 6,000 runs if they are right.
    generator = np.random.default_rng(0)

    def texts() -> list[np.ndarray]:
        rates = generator.uniform(0.02, 0.3, 30)
        return [generator.geometric(rate, 40).astype(np.int64) for rate in rates]

    found = [text_statistics(texts()) for _ in range(100)]
    for pick in (
        lambda one: one.entropy,
        lambda one: one.pooled_entropy,
        lambda one: one.distinct[0],
        lambda one: one.repetition[1],
    ):
        measures: list[Measure] = [pick(one) for one in found]
        truth = np.mean([measure.value for measure in measures])
        held = [
            m.confidence_95 and m.confidence_95[0] <= truth <= m.confidence_95[1] for m in measures
        ]
        assert sum(map(bool, held)) > 84


def test_one_text_has_figures_without_errors() -> None:
    found = text_statistics([np.array([1, 2, 1, 2, 3])])
    assert found.distinct[1].standard_error is None is found.pooled_entropy.confidence_95
    assert found.entropy.summary()["confidence_95"] is None
    assert found.distinct[1].value == 3 / 4 and found.repetition[1].value == 1 / 4


def test_texts_without_any_4_gram_are_refused() -> None:
    with pytest.raises(UserError, match="none of 2 texts has 4 tokens"):
        text_statistics([np.array([1, 2, 3]), np.array([], np.int64)])
