"""What can be told of a label without any network: from how frequent it is, from how long a
sequence is, and from its short words.

A network that does not beat these has learnt nothing that they do not say. Each function takes
labelled sequences and gives the class of each test sequence or, where labels are numbers, its
number.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped

from genodiff.errors import UserError
from genodiff.evaluation.metrics import are_numbers
from genodiff.evaluation.words import letter_codes, word_shares

LENGTHS = range(1, 7)
"""Of the words whose frequencies are features."""
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C, from the strongest penalty down
_WORD_PENALTIES = (1e-1, 1.0, 1e1, 1e2)
_ITERATIONS = 100
_WORD = re.compile(r"\w+|[^\w\s]")

Told = Shaped[np.ndarray, "n"]


@runtime_checkable
class Labelled(Protocol):
    """Sequence i is `ids[starts[i] : starts[i + 1]]`, with the label `labels[i]`: a class, or a
    number."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def starts(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...


def majority(train: Labelled, test: Labelled) -> Told:
    """The most frequent class of the training set, the first of equal ones; of numbers the
    mean."""
    if are_numbers(train.labels):
        return np.full(len(test.labels), train.labels.mean())
    return np.full(len(test.labels), np.bincount(train.labels).argmax())


def length_only(train: Labelled, test: Labelled, *, length: int | None = None) -> Told:
    """The most frequent class among training sequences of exactly that length.

    Of equally frequent classes, the one more frequent in the whole training set, then the first.
    Of numbers, the mean at that length, as if one sequence more had the mean of all. A length that
    training has not is read as the nearest that it has, the shorter of two. With `length`, longer
    sequences count as that long: what a network sees of rows that are cut.
    """
    longest = np.iinfo(np.int64).max if length is None else length
    known, row = np.unique(np.minimum(np.diff(train.starts), longest), return_inverse=True)
    if are_numbers(train.labels):
        sums, counts = np.bincount(row, train.labels), np.bincount(row)
        told_of = (sums + train.labels.mean()) / (counts + 1)
    else:
        overall = np.bincount(train.labels)
        of_class = np.zeros((len(known), len(overall)))
        np.add.at(of_class, (row, train.labels), 1)
        told_of = (of_class + overall / (overall.sum() + 1)).argmax(1)  # less than one more
    asked = np.minimum(np.diff(test.starts), longest)
    above = np.searchsorted(known, asked).clip(0, len(known) - 1)
    below = (above - 1).clip(0)
    is_below = asked - known[below] <= np.abs(known[above] - asked)
    return told_of[np.where(is_below, below, above)]


def kmer_logistic(
    train: Labelled, valid: Labelled, test: Labelled, *, data_ids: Sequence[int]
) -> Told:
    """Logistic regression on the frequencies of words of 1 to 6 bases, both strands as one; of
    numbers, ridge regression.

    2,772 frequencies, standardised on `train`; the penalty is the one that tells most of `valid`
    right, the strongest of equal ones. Of DNA only.

    Args:
        data_ids: the ids of A, C, G, T, in this order.

    Raises:
        UserError: scikit-learn is not installed.
    """
    require_sklearn("the k-mer baseline")
    features = [word_frequencies(part, data_ids) for part in (train, valid, test)]
    mean, sd = features[0].mean(0), features[0].std(0)
    sd[sd == 0] = 1
    for part in features:
        part -= mean
        part /= sd
    return _fitted(features, train, valid, _PENALTIES)


def word_logistic(
    train: Labelled,
    valid: Labelled,
    test: Labelled,
    *,
    texts: Callable[[np.ndarray], Sequence[str]],
) -> Told:
    """Logistic regression on which words a text has; of numbers, ridge regression.

    A word is a run of letters and digits, in lower case, or a sign; it counts once a text. Of rows
    of two texts it counts as of the first, of the second, and once more if both have it. Rows have
    length 1; the penalty is chosen by `valid` as in `kmer_logistic`.

    Args:
        texts: the texts of a row of ids.

    Raises:
        UserError: scikit-learn is not installed.
    """
    require_sklearn("the bag of words")
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.preprocessing import normalize

    known = DictVectorizer()
    found = [_bags(part, texts) for part in (train, valid, test)]
    features = [known.fit_transform(found[0]), *(known.transform(bags) for bags in found[1:])]
    return _fitted([normalize(part) for part in features], train, valid, _WORD_PENALTIES)


def require_sklearn(what: str, extra: str = "downstream") -> None:
    """Raises UserError if scikit-learn is not installed, by which `what` is fitted; it names the
    extra of genodiff that brings it."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"scikit-learn is not installed, and {what} is fitted with it; run pip install "
            f"'genodiff[{extra}]'."
        ) from error


def _fitted(
    features: Sequence[Any], train: Labelled, valid: Labelled, penalties: Sequence[float]
) -> Told:
    """What a linear model of the features of three parts tells of the third; the second chooses
    its penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    of_numbers = are_numbers(train.labels)
    if not of_numbers and len(np.unique(train.labels)) < 2:
        return np.full(features[2].shape[0], train.labels[0])  # scikit-learn wants two
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    best, told = -np.inf, np.zeros(0)
    for penalty in penalties:
        model = Ridge(1 / penalty) if of_numbers else model.set_params(C=penalty)
        with warnings.catch_warnings():  # an optimum not quite reached is a penalty a bit stronger
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[0], train.labels)
        on_valid = np.asarray(model.predict(features[1]))
        misses = (on_valid - valid.labels) ** 2 if of_numbers else on_valid != valid.labels
        if -misses.mean() > best:
            best, told = -misses.mean(), np.asarray(model.predict(features[2]))
    return told


def _bags(
    sequences: Labelled, texts: Callable[[np.ndarray], Sequence[str]]
) -> Iterable[dict[str, int]]:
    """The words of each row: "0 word" of the first text, "1 word" of the second, "& word"."""
    rows = np.split(sequences.ids, sequences.starts[1:-1])
    for row in rows if len(sequences.labels) else ():
        of_each = [set(_WORD.findall(text.lower())) for text in texts(row)]
        bag = {f"{i} {word}": 1 for i, each in enumerate(of_each) for word in each}
        if len(of_each) > 1:
            bag |= {f"& {word}": 1 for word in set.intersection(*of_each)}
        yield bag


def word_frequencies(
    sequences: Labelled, data_ids: Sequence[int]
) -> Float32[np.ndarray, "n words"]:
    """The share of each word among those of its length in each sequence, for lengths 1 to 6; a
    word and its reverse complement are one. 0 where a sequence has no word of a length."""
    codes = letter_codes(sequences.ids, data_ids)
    each = np.split(codes, sequences.starts[1:-1]) if len(sequences.labels) else ()
    return word_shares(each, LENGTHS)
