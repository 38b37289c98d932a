"""How near sequences come to those of a training set, or to one another: copies on either strand.

A *match* is a stretch of letters A, C, G, T that a sample and a training sequence share exactly,
and that goes no further at either end. The *nearest stretch* of a sample is its best local
alignment without gaps, where a letter that is the same counts +1 and one that is not -2 (the
scores of megablast: Zhang et al. 2000); it holds no N. Matches are found from words of 12 letters
in common, and alignments on those four diagonals of either strand of a sample that hold most
letters in matches, for each part of the training set. Of a word that stands more than 32 times in
such a part, of some four million letters, 32 places are looked at: matches of nothing but words
more frequent than that (microsatellites, the commonest letters of a repeat family) may be missed.

Whether a model copies is not told by these figures alone: genomes repeat themselves, so those of
real sequences that were held out of training are the yardstick. By chance, a sample of m letters
and both strands of t training letters have matches of up to about log(2 m t (1 - p)) / log(1 / p)
letters, p being the probability that two letters are the same (Arratia & Waterman 1985): 17 for a
thousand letters and six million.

Training sequences are a stream. Samples are held some two million letters at a time, and for each
such block the training set is read once.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.metrics import wilson_95
from genodiff.evaluation.nearest_stretches import (
    MISMATCH,
    WORD,
    Samples,
    join_letters,
    meet,
    training_parts,
    words_in,
)
from genodiff.evaluation.resampling import (
    RESAMPLES,
    Resampled,
    SetDifference,
    difference,
    unit_weights,
)
from genodiff.evaluation.text_statistics import Measure, measure
from genodiff.evaluation.words import blocks, reverse_complements

NEAR_IDENTITY, NEAR_SHARE = 0.9, 0.5


class Neighbours(NamedTuple):
    """The nearest training sequence of each of n samples.

    `letters`: of each sample, N left out. `longest`: its longest match, in letters; 0 if less than
    12. `covered`: the share of its letters in matches of 24 or more. Its nearest stretch goes from
    `start` to `end`, and is found on `strand` 1 or -1 of the training sequence number `record`,
    from `record_start` to `record_end`, with the share `identity` of its letters in common; -1 and
    zeros where there is none. Places are 0-based, half-open, on the strand that was given.

    `longest_by_chance`: of the average sample, if all letters were independent. `units` (n,): what
    repeats independently.
    """

    letters: Int64[ndarray, " n"]
    longest: Int64[ndarray, " n"]
    covered: Float[ndarray, " n"]
    start: Int64[ndarray, " n"]
    end: Int64[ndarray, " n"]
    record: Int64[ndarray, " n"]
    record_start: Int64[ndarray, " n"]
    record_end: Int64[ndarray, " n"]
    strand: Int64[ndarray, " n"]
    identity: Float[ndarray, " n"]
    units: Int64[ndarray, " n"]
    training_letters: int
    longest_by_chance: float

    @property
    def is_exact(self) -> Bool[ndarray, " n"]:
        """The whole sample stands in the training set."""
        return (self.longest == self.letters) & (self.letters > 0)

    @property
    def is_near(self) -> Bool[ndarray, " n"]:
        """The nearest stretch has at least half of the sample's letters and 90 % identity."""
        span = self.end - self.start
        return (self.identity >= NEAR_IDENTITY) & (span >= NEAR_SHARE * self.letters) & (span > 0)

    @property
    def aligned(self) -> Float[ndarray, " n"]:
        """The share of a sample's letters that its nearest stretch has in common with it."""
        same = self.identity * (self.end - self.start)
        return np.divide(same, self.letters, out=np.zeros(len(same)), where=self.letters > 0)

    @property
    def each(self) -> dict[str, Float[ndarray, " n"]]:
        """What `measures` are the means of: `exact` and `near` copies as 0 or 1, the shares
        `covered` and `aligned`, and `longest` in letters."""
        return {
            "exact": self.is_exact.astype(np.float64),
            "near": self.is_near.astype(np.float64),
            "covered": self.covered,
            "aligned": self.aligned,
            "longest": self.longest.astype(np.float64),
        }

    @property
    def measures(self) -> dict[str, Measure]:
        """Means over the samples. Where all or none are copies the interval is Wilson's, of
        independent units."""
        measures = {}
        for name, values in self.each.items():
            mean = _mean(values, self.units)
            found = mean.measure
            if name in ("exact", "near") and mean.value in (0, 1):
                interval = wilson_95(int(mean.value) * mean.n_units, mean.n_units)
                found = found._replace(confidence_95=interval)
            elif name != "longest" and found.confidence_95 is not None:
                low, high = np.clip(found.confidence_95, 0, 1).tolist()
                found = found._replace(confidence_95=(low, high))
            measures[name] = found
        return measures

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        median, most, largest = np.quantile(self.longest, (0.5, 0.95, 1)).tolist()
        return {
            "samples": len(self.letters),
            "units": len(np.unique(self.units)),
            "training_letters": self.training_letters,
            **{name: value.summary() for name, value in self.measures.items()},
            "longest_quantiles": {"0.5": median, "0.95": most, "1": largest},
            "longest_by_chance": self.longest_by_chance,
        }


def neighbours(
    samples: Iterable[str],
    training: Callable[[], Iterable[str]],
    *,
    units: Sequence[int] | None = None,
) -> Neighbours:
    """The nearest training sequence of each sample, on both strands.

    Args:
        samples: upper or lower case.
        training: gives the training sequences each time it is called, chromosomes for instance.
        units: what repeats independently among the samples, one number a sample; None: each.

    Raises:
        UserError: no sample, or no letter in the training sequences.
    """
    return _neighbours(samples, training, units, among_themselves=False)


def neighbours_within(samples: Iterable[str], *, units: Sequence[int] | None = None) -> Neighbours:
    """The nearest other sample of each sample, on both strands; `record` is its number.

    The samples are gone through again for each block of them: time grows with their square.

    Raises:
        UserError: no sample, or no letter in any.
    """
    return _neighbours(samples, lambda: samples, units, among_themselves=True)


def neighbour_differences(sample: Neighbours, reference: Neighbours) -> dict[str, SetDifference]:
    """The measures of one set less those of another, where both were held against as many
    training letters.

    Raises:
        UserError: fewer than two units in either, or other training letters.
    """
    if sample.training_letters != reference.training_letters:
        raise UserError(
            f"neighbours among {sample.training_letters:,} and {reference.training_letters:,} "
            "letters cannot be compared; give both sets the same training sequences."
        )
    theirs = reference.each
    return {
        name: difference(_mean(values, sample.units), _mean(theirs[name], reference.units))
        for name, values in sample.each.items()
    }


def distinct_words(samples: Iterable[str]) -> Measure:
    """Different words of 12 letters as a share of all words, a word and its reverse complement
    being one. Comparable between sets of as many letters only.

    The error is the jackknife's, which leaves out one sample at a time: a bootstrap would draw
    samples twice, and they would repeat each other.

    Raises:
        UserError: no word of 12 letters in any sample.
    """
    reverse = reverse_complements(WORD, (3, 2, 1, 0))
    holder = np.full(4**WORD, -1, np.int32)  # of each word the only sample with it; -2: several
    n_samples, sizes = 0, [np.zeros(0, np.int64)]
    for block in blocks(samples):
        places, word = words_in(join_letters(block.codes))
        owner = block.owner[places]
        sizes.append(np.bincount(owner, minlength=len(block.units)))
        word = np.minimum(word, reverse[word]).astype(np.int64)
        word, owner = np.divmod(np.unique(word << 32 | owner + n_samples), 1 << 32)
        word, begin, times = np.unique(word, return_index=True, return_counts=True)
        is_only = (times == 1) & (holder[word] == -1)
        holder[word] = np.where(is_only, owner[begin], -2)
        n_samples += len(block.units)
    size = np.concatenate(sizes)
    if not size.any():
        raise UserError(
            f"{n_samples} samples hold no {WORD} letters A, C, G, T in a row; give longer ones."
        )
    distinct, own = (holder != -1).sum(), np.bincount(holder[holder >= 0], minlength=n_samples)
    own, size = own[size > 0], size[size > 0]
    value = float(distinct / size.sum())
    n = len(size)
    if n < 2:
        return Measure(value, None, None)
    without = (distinct - own) / (size.sum() - size)
    error = math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return measure(value, error, n)


def _neighbours(
    samples: Iterable[str],
    training: Callable[[], Iterable[str]],
    units: Sequence[int] | None,
    *,
    among_themselves: bool,
) -> Neighbours:
    found: list[tuple[ndarray, ...]] = []
    n_samples, ours, theirs = 0, np.zeros(4, np.int64), np.zeros(4, np.int64)
    for block in blocks(samples, units=units):
        held = Samples(block, n_samples)
        theirs = np.zeros(4, np.int64)
        for part in training_parts(training(), overlap=int((held.ends - held.begins).max())):
            meet(held, part, among_themselves=among_themselves)
            theirs += part.frequencies
        near = held.nearest
        span = near.end - near.start
        same = np.divide(
            near.score + MISMATCH * span,
            (1 + MISMATCH) * span,
            out=np.zeros(len(span)),
            where=span > 0,
        )
        ours += np.bincount(block.codes[block.codes >= 0], minlength=4)
        n_samples += len(span)
        units_of = np.asarray(block.units, np.int64)
        found.append((held.n_letters, held.longest, held.covered(), *near[1:], same, units_of))
    if not theirs.any():
        raise UserError(
            f"{n_samples} samples have no letter A, C, G, T to be compared with; give samples, "
            "and training sequences of DNA."
        )
    arrays = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    by_chance = _by_chance(ours, theirs, n_samples)
    return Neighbours._make([*arrays, int(theirs.sum()), by_chance])


def _by_chance(ours: Int64[ndarray, "4"], theirs: Int64[ndarray, "4"], n_samples: int) -> float:
    """The expected longest match of the average sample with both strands, of independent
    letters."""
    p = float((ours / max(ours.sum(), 1) * (theirs + theirs[::-1]) / (2 * theirs.sum())).sum())
    pairs = 2 * ours.sum() / n_samples * theirs.sum() * (1 - p)
    return math.log(max(pairs, 1)) / -math.log(p) if 0 < p < 1 else 0.0


def _mean(values: Float[ndarray, " n"], units: Int64[ndarray, " n"]) -> Resampled:
    numbers, place = np.unique(units, return_inverse=True)
    weights = unit_weights(numbers, RESAMPLES, seed=0).astype(np.float64).T
    means = weights @ np.bincount(place, values) / (weights @ np.bincount(place))
    return Resampled(float(values.mean()), means, len(numbers))
