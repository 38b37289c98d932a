"""What can be told of a class without any network: from how frequent it is, from how long a
sequence is, and from its short words.

A network that does not beat these has learnt nothing that they do not say. Each function takes
labelled sequences and gives the class of each test sequence.
"""

import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from genodiff.errors import UserError
from genodiff.evaluation.words import letter_codes, reverse_complements, words

_LONGEST_WORD = 6
_COMPLEMENT = (3, 2, 1, 0)
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C, from the strongest penalty down
_ITERATIONS = 100


@runtime_checkable
class Labelled(Protocol):
    """Sequence i is `ids[starts[i] : starts[i + 1]]`, of class `labels[i]`."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def starts(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...


def majority(train: Labelled, test: Labelled) -> Int64[np.ndarray, "n"]:
    """The most frequent class of the training set, the first of equal ones."""
    return np.full(len(test.labels), np.bincount(train.labels).argmax())


def length_only(
    train: Labelled, test: Labelled, *, length: int | None = None
) -> Int64[np.ndarray, "n"]:
    """The most frequent class among training sequences of exactly that length.

    Of equally frequent classes, the one more frequent in the whole training set, then the first.
    A length that training has not is read as the nearest that it has, the shorter of two. With
    `length`, longer sequences count as that long: what a network sees of rows that are cut.
    """
    longest = np.iinfo(np.int64).max if length is None else length
    known, row = np.unique(np.minimum(np.diff(train.starts), longest), return_inverse=True)
    overall = np.bincount(train.labels)
    counts = np.zeros((len(known), len(overall)))
    np.add.at(counts, (row, train.labels), 1)
    class_of = (counts + overall / (overall.sum() + 1)).argmax(1)  # less than one sequence more
    asked = np.minimum(np.diff(test.starts), longest)
    above = np.searchsorted(known, asked).clip(0, len(known) - 1)
    below = (above - 1).clip(0)
    is_below = asked - known[below] <= np.abs(known[above] - asked)
    return class_of[np.where(is_below, below, above)]


def kmer_logistic(
    train: Labelled, valid: Labelled, test: Labelled, *, data_ids: Sequence[int]
) -> Int64[np.ndarray, "n"]:
    """Logistic regression on the frequencies of words of 1 to 6 bases, both strands as one.

    2,772 frequencies, standardised on `train`; the penalty is the one that tells most of `valid`
    right, the strongest of equal ones. Of DNA only.

    Args:
        data_ids: the ids of A, C, G, T, in this order.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            "scikit-learn is not installed, and the k-mer baseline is fitted with it; "
            "run pip install 'genodiff[downstream]'."
        ) from error
    features = [word_frequencies(part, data_ids) for part in (train, valid, test)]
    mean, sd = features[0].mean(0), features[0].std(0)
    sd[sd == 0] = 1
    for part in features:
        part -= mean
        part /= sd
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    best, predictions = -1.0, np.zeros(0, np.int64)
    for penalty in _PENALTIES:
        model.set_params(C=penalty)
        with warnings.catch_warnings():  # an optimum not quite reached is a penalty a bit stronger
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[0], train.labels)
        accuracy = float(np.equal(model.predict(features[1]), valid.labels).mean())
        if accuracy > best:
            best, predictions = accuracy, np.asarray(model.predict(features[2]))
    return predictions


def word_frequencies(
    sequences: Labelled, data_ids: Sequence[int]
) -> Float32[np.ndarray, "n words"]:
    """The share of each word among those of its length in each sequence, for lengths 1 to 6; a
    word and its reverse complement are one. 0 where a sequence has no word of a length."""
    tables = []
    for k in range(1, _LONGEST_WORD + 1):
        canonical = np.minimum(np.arange(4**k), reverse_complements(k, _COMPLEMENT))
        tables.append(np.unique(canonical, return_inverse=True)[1])
    begins = np.cumsum([0, *(table.max() + 1 for table in tables)])
    frequencies = np.zeros((len(sequences.labels), begins[-1]), np.float32)
    codes = letter_codes(sequences.ids, data_ids)
    for i, row in enumerate(frequencies):
        sequence = codes[sequences.starts[i] : sequences.starts[i + 1]]
        found_of = words(sequence, 4, _LONGEST_WORD)
        for table, begin, (_, found) in zip(tables, begins[:-1], found_of, strict=True):
            counts = np.bincount(table[found], minlength=table.max() + 1)
            row[begin : begin + len(counts)] = counts / max(len(found), 1)
    return frequencies
