"""Classifiers on sets of known laws; areas and intervals against sklearn and simulation."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from genodiff.errors import UserError
from genodiff.evaluation.discriminator import (
    Discrimination,
    auroc,
    cnn_discriminator,
    feature_discriminator,
    kmer_discriminator,
)

SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def drawn(random: np.random.Generator, n: int, length: int, gc: float = 0.5) -> list[str]:
    law = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return ["".join(random.choice(list("ACGT"), length, p=law)) for _ in range(n)]


def with_word(random: np.random.Generator, sequence: str, word: str) -> str:
    start = random.integers(len(sequence) - len(word) + 1)
    return sequence[:start] + word + sequence[start + len(word) :]


@settings(deadline=None)
@given(SCORES, SCORES)
def test_the_area_is_that_of_all_pairs(a: list[int], b: list[int]) -> None:
    samples, real = np.array(a, float), np.array(b, float)
    area, above, below = auroc(samples, real)
    higher = (samples[:, None] > real) + 0.5 * (samples[:, None] == real)
    assert area == pytest.approx(higher.mean(), abs=1e-12)
    np.testing.assert_allclose(above, higher.mean(1), atol=1e-12)
    np.testing.assert_allclose(below, higher.mean(0), atol=1e-12)
    labels = np.repeat([1, 0], [len(a), len(b)])
    assert area == pytest.approx(roc_auc_score(labels, [*a, *b]), abs=1e-12)


def test_vectors_apart_by_d_have_the_area_of_two_normals() -> None:
    # P(X > Y) = Phi(d / sqrt 2) = 0.76 of normals one standard deviation apart; five times the
    # error of 0.017 that 400 of each have.
    random = np.random.default_rng(0)
    found = feature_discriminator(random.normal(1, 1, (400, 1)), random.normal(0, 1, (400, 1)))
    assert found.auroc == pytest.approx(0.7602, abs=0.085)
    assert found.confidence_95[0] < 0.7602 < found.confidence_95[1]
    # DeLong's error of one large test set, times 1.5 for five folds.
    assert found.standard_error == pytest.approx(1.5 * 0.0168, rel=0.1)
    assert found.curve.mean() == pytest.approx(found.auroc, abs=0.02)
    assert (np.diff(found.curve) >= 0).all() and found.curve[-1] == 1


def test_sets_that_share_nothing_are_told_always() -> None:
    random = np.random.default_rng(1)
    found = feature_discriminator(random.normal(9, 1, (50, 2)), random.normal(0, 1, (50, 2)))
    assert found.auroc == 1 and found.folds == (1.0,) * 5
    assert found.confidence_95 == pytest.approx((0.925, 1), abs=1e-3)


def covers_half(found: Discrimination) -> bool:
    return found.confidence_95[0] <= 0.5 <= found.confidence_95[1]


@pytest.mark.slow
def test_of_one_law_the_interval_holds_one_half() -> None:
    # Without the correction for folds that share what they learn from, 83 % of intervals would.
    # At a rate of 95 %, fewer than 52 of 60 is a false alarm for 1 % of choices of seeds.
    covered, areas = 0, []
    for seed in range(60):
        random = np.random.default_rng(seed)
        samples, real = random.normal(size=(2, 80, 6))
        found = feature_discriminator(samples, real, seed=seed)
        covered += covers_half(found)
        areas.append(found.auroc)
    assert covered >= 52
    assert np.mean(areas) == pytest.approx(0.5, abs=4 * np.std(areas) / np.sqrt(60))


@pytest.mark.slow
@pytest.mark.parametrize("classifier", [kmer_discriminator, cnn_discriminator])
def test_two_halves_of_one_set_are_not_told_apart(
    classifier: Callable[..., Discrimination], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genodiff.evaluation.discriminator._STEPS", 50)
    covered = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        sequences = [drawn(random, 1, 100, gc)[0] for gc in random.uniform(0.3, 0.6, 240)]
        covered += covers_half(classifier(sequences[:120], sequences[120:], seed=seed))
    assert covered >= 16  # at a rate of 95 %, a false alarm for 0.3 % of choices of seeds


@pytest.mark.slow
def test_halves_of_one_long_set_are_between_045_and_055() -> None:
    random = np.random.default_rng(0)
    sequences = [drawn(random, 1, 512, gc)[0] for gc in random.uniform(0.3, 0.6, 2000)]
    for classifier in (kmer_discriminator, cnn_discriminator):
        assert 0.45 < classifier(sequences[:1000], sequences[1000:]).auroc < 0.55


def test_a_shifted_gc_is_told_by_words() -> None:
    # 200 bases of GC 0.45 or 0.55: shares are 0.1 / 0.035 = 2.8 standard deviations apart, and
    # the best possible area is Phi(2.8 / sqrt 2) = 0.977.
    random = np.random.default_rng(2)
    found = kmer_discriminator(drawn(random, 150, 200, 0.55), drawn(random, 150, 200, 0.45))
    assert 0.9 < found.auroc <= 0.995
    assert found.classifier == "k-mers" and found.sequences == 150


@pytest.mark.slow
def test_a_long_word_in_half_of_the_samples_is_told_by_the_convolutions() -> None:
    # Half of the samples can be told, so the area is 0.5 + 0.5 / 2 at best. On either strand.
    random = np.random.default_rng(3)
    sequences = drawn(random, 1000, 256)
    words = ["TGACGTCATCGA", "TCGATGACGTCA"]
    samples = [
        with_word(random, each, words[i // 2 % 2]) if i % 2 else each
        for i, each in enumerate(sequences[:500])
    ]
    found = cnn_discriminator(samples, sequences[500:])
    assert 0.68 < found.auroc < 0.80
    assert found.confidence_95[0] > 0.5


def test_copies_of_a_record_stay_in_one_fold() -> None:
    # Ten vectors a set, each ten times, in 40 dimensions: who has seen a copy tells the set; who
    # has not cannot.
    random = np.random.default_rng(4)
    units = np.repeat(np.arange(10), 10).tolist()
    samples, real = (np.repeat(random.normal(size=(10, 40)), 10, axis=0) for _ in range(2))
    alone = feature_discriminator(samples, real)
    together = feature_discriminator(samples, real, units=(units, [10 + unit for unit in units]))
    assert alone.auroc == 1
    assert covers_half(together)
    assert together.standard_error > 5 * alone.standard_error


def test_pairs_with_one_number_stay_in_one_fold() -> None:
    # A sample and a real vector of each pair are equal: a classifier that has seen the one gives
    # the other the wrong label.
    random = np.random.default_rng(5)
    vectors = random.normal(size=(60, 100))
    pairs = list(range(60))
    apart = feature_discriminator(vectors, vectors)
    together = feature_discriminator(vectors, vectors, units=(pairs, pairs))
    assert together.folds == (0.5,) * 5
    assert apart.auroc < 0.3


def test_the_larger_set_is_cut_to_the_smaller_one_by_the_seed() -> None:
    random = np.random.default_rng(6)
    samples, real = random.normal(size=(70, 2)), random.normal(size=(40, 2))
    found = feature_discriminator(samples, real, seed=3)
    assert (found.sequences, found.given, found.seed) == (40, (70, 40), 3)
    assert feature_discriminator(samples, real, limit=25).sequences == 25
    again = feature_discriminator(samples, real, seed=3)
    assert again.folds == found.folds
    assert feature_discriminator(samples, real, seed=4).folds != found.folds
    summary = found.summary()
    assert summary["sequences_each"] == 40 and len(summary["curve"]) == 101


def test_the_convolutions_give_one_result_and_leave_the_random_numbers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr("genodiff.evaluation.discriminator._STEPS", 3)
    random = np.random.default_rng(7)
    samples, real = drawn(random, 20, 50), drawn(random, 20, 50)
    before = torch.random.get_rng_state()
    found = cnn_discriminator(samples, real)
    assert torch.equal(before, torch.random.get_rng_state())
    assert cnn_discriminator(samples, real).folds == found.folds
    turned = [each[::-1].translate(str.maketrans("ACGT", "TGCA")) for each in samples]
    assert cnn_discriminator(turned, real).auroc == pytest.approx(found.auroc, abs=0.03)


def test_what_cannot_be_told_apart_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    sequences = drawn(random, 9, 30)
    units = (range(9), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    with pytest.raises(UserError, match=r"9 real sequences of 3 records .* 5 folds; give sequ"):
        kmer_discriminator(sequences, sequences, units=units)
    with pytest.raises(UserError, match=r"3 samples of 3 records cannot be dealt into 5 folds"):
        kmer_discriminator(sequences[:3], sequences)
    with pytest.raises(UserError, match=r"sequences of 29 to 30 bases: .* cut them to one length"):
        cnn_discriminator([each[1:] for each in sequences], sequences)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[report\]'"):
        kmer_discriminator(sequences, sequences)
