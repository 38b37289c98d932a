"""Baselines of labels: planted leaks are found, and chance is chance."""

import sys
from typing import NamedTuple

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation.label_baselines import (
    kmer_logistic,
    length_only,
    majority,
    word_frequencies,
    word_logistic,
)
from genodiff.evaluation.metrics import wilson_95
from genodiff.evaluation.spectra import kmer_spectrum

ACGT = (7, 8, 9, 10)


class Labelled(NamedTuple):
    ids: np.ndarray
    starts: np.ndarray
    labels: np.ndarray


def labelled(sequences: list[np.ndarray], labels: list[int]) -> Labelled:
    starts = np.cumsum([0, *map(len, sequences)])
    return Labelled(np.concatenate(sequences), starts, np.array(labels))


def of_lengths(lengths: list[int], labels: list[int]) -> Labelled:
    return labelled([np.full(length, 7) for length in lengths], labels)


def drawn(random: np.random.Generator, n: int, gc_of_class: tuple[float, float]) -> Labelled:
    """Sequences of 50 to 80 bases, of two classes with that share of G and C."""
    labels = random.integers(0, 2, n).tolist()
    sequences = []
    for label in labels:
        gc = gc_of_class[label]
        p = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
        sequences.append(random.choice(ACGT, random.integers(50, 81), p=p))
    return labelled(sequences, labels)


def test_the_majority_is_trainings() -> None:
    train = of_lengths([5] * 5, [2, 0, 2, 2, 1])
    assert majority(train, of_lengths([5, 9], [0, 1])).tolist() == [2, 2]


def test_a_length_says_its_class_by_the_stated_rule() -> None:
    train = of_lengths([10, 10, 10, 20, 20, 40], [0, 0, 1, 0, 1, 1])
    # 20 is tied, and so are the classes over all: the first; 15 is between, 31 nearer to 40
    asked = of_lengths([10, 20, 40, 15, 31, 30, 0, 99], [0] * 8)
    assert length_only(train, asked).tolist() == [0, 0, 1, 0, 1, 0, 0, 1]
    more = of_lengths([10, 20, 20, 40], [1, 0, 1, 1])  # 20 is tied, and class 1 is more frequent
    assert length_only(more, of_lengths([20], [0])).tolist() == [1]
    cut = of_lengths([12, 30, 40, 50], [0, 1, 1, 0])
    assert length_only(cut, of_lengths([45, 12], [0, 0]), length=30).tolist() == [1, 0]


def test_a_planted_length_leak_is_found() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 2000).tolist()
    lengths = [int(random.choice([200, 400] if label else [150, 199])) for label in labels]
    data = of_lengths(lengths, labels)
    assert (length_only(data, data) == data.labels).all()


def test_frequencies_are_of_the_words_of_both_strands() -> None:
    random = np.random.default_rng(1)
    sequences = [random.choice(ACGT, 60), random.choice(ACGT, 25)]
    found = word_frequencies(labelled(sequences, [0, 0]), ACGT)
    assert found.shape == (2, 2772)
    begin = 0
    for k in range(1, 7):
        spectra = [
            kmer_spectrum([sequence], k, data_ids=ACGT, both_strands=True, resamples=0)
            for sequence in sequences
        ]
        counts = np.stack([spectrum.counts for spectrum in spectra])
        shares = counts / counts.sum(1, keepdims=True)
        assert found[:, begin : begin + shares.shape[1]] == pytest.approx(shares)
        begin += shares.shape[1]


def test_sequences_shorter_than_words_and_without_letters_have_none() -> None:
    found = word_frequencies(
        labelled([np.array([7, 7]), np.full(9, 11), np.zeros(0, int)], [0, 0, 0]), ACGT
    )
    assert found[0].nonzero()[0].tolist() == [0, 2] and not found[1:].any()


def test_a_planted_composition_is_found_and_shuffled_labels_give_chance() -> None:
    random = np.random.default_rng(2)
    train, valid, test = (drawn(random, n, (0.4, 0.6)) for n in (400, 100, 300))
    found = kmer_logistic(train, valid, test, data_ids=ACGT)
    # GC content of 65 bases is 0.4 or 0.6 with sd 0.06: its threshold tells 95 % right
    right = int((found == test.labels).sum())
    assert wilson_95(right, 300)[1] > 0.95 and right > 270
    assert (kmer_logistic(train, valid, test, data_ids=ACGT) == found).all()
    train, valid, test = (
        part._replace(labels=random.permutation(part.labels)) for part in (train, valid, test)
    )
    found = kmer_logistic(train, valid, test, data_ids=ACGT)
    low, high = wilson_95(int((found == test.labels).sum()), 300)
    assert low < 0.5 < high  # false alarm for 5 % of seeds


def test_numbers_have_a_mean_and_one_for_each_length() -> None:
    train = of_lengths([10, 10, 20], [0, 0, 0])._replace(labels=np.array([1.0, 2.0, 6.0]))
    asked = of_lengths([10, 20, 40], [0] * 3)
    assert majority(train, asked).tolist() == [3, 3, 3]
    # at length 10 the mean of 1, 2 and the mean of all, 3; at 20 that of 6 and 3
    assert length_only(train, asked).tolist() == pytest.approx([2, 4.5, 4.5])


def test_a_planted_number_is_found_by_ridge_regression() -> None:
    random = np.random.default_rng(3)
    parts = [drawn(random, n, (0.3, 0.7)) for n in (300, 80, 200)]
    parts = [
        part._replace(
            labels=np.array(
                [np.isin(row, (8, 9)).mean() for row in np.split(part.ids, part.starts[1:-1])]
            )
        )
        for part in parts
    ]
    found = kmer_logistic(*parts, data_ids=ACGT)
    assert np.corrcoef(found, parts[2].labels)[0, 1] > 0.99  # it is linear in the features


def reviews(random: np.random.Generator, n: int, *, pairs: bool = False) -> Labelled:
    """Bytes of texts; of class 1 those with "good" or, of pairs, with a word in common."""
    fill = ["the", "film", "was", "a", "long", "one", ","]
    rows, labels = [], random.integers(0, 2, n).tolist()
    for label in labels:
        words = random.choice(fill, 6).tolist()
        names = [f"name{random.integers(20)}" for _ in range(2)]
        text = " ".join([*words, "Good!" if label else "Bad."])
        if pairs:
            same = names[0] if label else f"other{random.integers(20)}"
            text = f"{' '.join([*words, names[0]])}\n{' '.join([*words[:3], same])}"
        rows.append(np.frombuffer(text.encode(), np.uint8))
    return labelled(rows, labels)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_planted_word_is_found_and_so_is_one_that_two_texts_share(pairs: bool) -> None:
    random = np.random.default_rng(4)
    parts = [reviews(random, n, pairs=pairs) for n in (300, 80, 200)]

    def texts(ids: np.ndarray) -> list[str]:
        return bytes(ids.tolist()).decode().split("\n")

    found = word_logistic(*parts, texts=texts)
    assert (found == parts[2].labels).mean() > 0.97
    shuffled = [part._replace(labels=random.permutation(part.labels)) for part in parts]
    right = int((word_logistic(*shuffled, texts=texts) == shuffled[2].labels).sum())
    low, high = wilson_95(right, 200)
    assert low < 0.5 < high  # false alarm for 5 % of seeds


def test_without_scikit_learn_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.exceptions", None)
    data = of_lengths([9, 8], [0, 1])
    with pytest.raises(UserError, match=r"pip install 'genodiff\[downstream\]'"):
        kmer_logistic(data, data, data, data_ids=ACGT)
    with pytest.raises(UserError, match=r"the bag of words is fitted with it; run pip install"):
        word_logistic(data, data, data, texts=lambda ids: [])
    assert majority(data, data).tolist() == [0, 0]
    assert length_only(data, data).tolist() == [0, 1]
