"""How varied texts are: entropy of their tokens, distinct n-grams, repetition.

A text is an array of token ids, and an n-gram n tokens in a row within one text. Perplexity under
a judge falls when a generator says the same over and over; these are the figures that show it.
All depend on the tokenizer and on how long texts are; distinct-n and the pooled entropy also on
how many there are. So compare sets of equal size, cut alike, under one tokenizer.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import ratio_standard_error, student_975

Tokens = Int[ndarray, "_"]

LONGEST = 4
"""Tokens of the longest n-grams that are counted."""


class Measure(NamedTuple):
    """A figure of a set of texts. Its error is that of drawing other texts of the same law; None
    for fewer than two texts."""

    value: float
    standard_error: float | None
    confidence_95: tuple[float, float] | None

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        interval = self.confidence_95
        return {
            "value": self.value,
            "standard_error": self.standard_error,
            "confidence_95": None if interval is None else list(interval),
        }


class TextStatistics(NamedTuple):
    """Of a set of texts, entropies in nats.

    `entropy`: of the frequencies of tokens within a text, mean over texts; the "unigram entropy"
    of diffusion papers (e.g. Zheng et al. 2024, arXiv:2409.02908). `pooled_entropy`: of the
    frequencies in all texts together. `distinct[n - 1]`: different n-grams of all texts, as a
    share of all of them (Li et al. 2016, arXiv:1510.03055). `repetition[n - 1]`: the share of a
    text's n-grams that occurred before in it, mean over texts (seq-rep-n, Welleck et al. 2019,
    arXiv:1908.04319).
    """

    entropy: Measure
    pooled_entropy: Measure
    distinct: tuple[Measure, ...]
    repetition: tuple[Measure, ...]

    def summary(self) -> dict[str, Any]:
        """As plain JSON values; of distinct and repetition by n."""
        return {
            "entropy": self.entropy.summary(),
            "pooled_entropy": self.pooled_entropy.summary(),
            "distinct": {str(n): each.summary() for n, each in enumerate(self.distinct, 1)},
            "repetition": {str(n): each.summary() for n, each in enumerate(self.repetition, 1)},
        }


def text_statistics(texts: Sequence[Tokens]) -> TextStatistics:
    """Entropies, and distinct-n and repetition for n = 1 to 4.

    A text of fewer than n tokens has no n-gram and no say. Errors of means over texts are the
    usual ones, those of figures of all texts together the jackknife's, which leaves out one text
    at a time: a bootstrap would draw texts twice, and they would repeat each other.

    Raises:
        UserError: no text has as many as 4 tokens.
    """
    if max(map(len, texts), default=0) < LONGEST:
        raise UserError(
            f"none of {len(texts)} texts has {LONGEST} tokens, so there is no {LONGEST}-gram to "
            "count; give longer texts."
        )
    grams = list(_grams(texts))
    return TextStatistics(
        entropy=mean_over_texts(_entropies(grams[0])),
        pooled_entropy=_pooled_entropy(grams[0]),
        distinct=tuple(map(_distinct, grams)),
        repetition=tuple(mean_over_texts(1 - each.different / each.total) for each in grams),
    )


def mean_over_texts(values: Float[ndarray, " t"]) -> Measure:
    """The mean of a figure that each text has."""
    error = ratio_standard_error(values, np.ones(len(values)))
    return measure(float(values.mean()), None if error is None else float(error), len(values))


def measure(value: float, standard_error: float | None, n_texts: int) -> Measure:
    """With the interval of Student's t."""
    if standard_error is None:
        return Measure(value, None, None)
    half = student_975(n_texts - 1) * standard_error
    return Measure(value, standard_error, (value - half, value + half))


class _Grams(NamedTuple):
    """The n-grams of those texts that have any.

    `text`, `gram`, `times` (m,): a text, an n-gram that it has, and how often. `total` (t,):
    n-grams of each text; `different` (t,): different ones.
    """

    text: Int[ndarray, " m"]
    gram: Int[ndarray, " m"]
    times: Int[ndarray, " m"]
    total: Int[ndarray, " t"]
    different: Int[ndarray, " t"]


def _grams(texts: Sequence[Tokens]) -> Iterator[_Grams]:
    """The 1-grams, the 2-grams, and so on. Each is the number of the (n-1)-gram that it begins
    with and its last token."""
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    token = np.unique(np.concatenate(texts), return_inverse=True)[1]
    start, gram = np.arange(len(token)), np.zeros_like(token)
    for n in range(1, LONGEST + 1):
        inside = start + n <= len(token)
        inside[inside] = owner[start[inside] + n - 1] == owner[start[inside]]
        start = start[inside]
        pairs = gram[inside] * (token.max() + 1) + token[start + n - 1]
        gram = np.unique(pairs, return_inverse=True)[1]
        text = np.unique(owner[start], return_inverse=True)[1]
        both, times = np.unique(text * (gram.max() + 1) + gram, return_counts=True)
        which, what = np.divmod(both, gram.max() + 1)
        yield _Grams(which, what, times, np.bincount(text), np.bincount(which))


def _entropies(grams: _Grams) -> Float[ndarray, " t"]:
    """Of each text, log N - sum(c log c) / N of its N tokens."""
    return np.log(grams.total) - np.bincount(grams.text, _x_log_x(grams.times)) / grams.total


def _pooled_entropy(grams: _Grams) -> Measure:
    counts, total = np.bincount(grams.gram, grams.times), grams.total.sum()
    everything = _x_log_x(counts).sum()
    own = _x_log_x(counts[grams.gram]) - _x_log_x(counts[grams.gram] - grams.times)
    rest, without = total - grams.total, everything - np.bincount(grams.text, own)
    with np.errstate(divide="ignore", invalid="ignore"):  # of one text nothing is left
        left_out = np.log(rest) - without / rest
    return _jackknifed(float(np.log(total) - everything / total), left_out)


def _distinct(grams: _Grams) -> Measure:
    texts_of, total = np.bincount(grams.gram), grams.total.sum()
    own = np.bincount(grams.text, texts_of[grams.gram] == 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # of one text nothing is left
        left_out = (len(texts_of) - own) / (total - grams.total)
    return _jackknifed(len(texts_of) / total, left_out)


def _jackknifed(value: float, left_out: Float[ndarray, " t"]) -> Measure:
    """A figure with the error that follows from its values without each text (Efron & Tibshirani
    1993, eq. 11.5)."""
    n = len(left_out)
    error = None if n < 2 else float(np.sqrt((n - 1) * left_out.var()))
    return measure(float(value), error, n)


def _x_log_x(x: ndarray) -> Float[ndarray, "*s"]:
    return x * np.log(np.maximum(x, 1))
