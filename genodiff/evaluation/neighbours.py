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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Int32, Int64, Shaped, UInt64
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.metrics import wilson_95
from genodiff.evaluation.resampling import (
    RESAMPLES,
    Resampled,
    SetDifference,
    difference,
    unit_weights,
)
from genodiff.evaluation.text_statistics import Measure, measure
from genodiff.evaluation.words import Block, blocks, codes_of, reverse_complements

WORD = 12
LONG = 24
"""Matches of so many letters cover a sample: hardly any is met by chance."""
NEAR_IDENTITY, NEAR_SHARE = 0.9, 0.5

_FREQUENT = 32
_DIAGONALS = 4
_MISMATCH = 2
_PART_LETTERS = 1 << 22
_HITS = 1 << 21
_CELLS = 1 << 21
_PACKED = 32  # letters in 64 bits


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
        places, word = _words(_letters(block.codes))
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


class _Letters(NamedTuple):
    """Sequences joined, so that stretches of them are compared 32 letters at a time.

    `codes`: letters 0..3, -1 elsewhere and between sequences. `packed`: the 32 letters from each
    place on, the first being the most significant. `before` and `after`: how many letters there
    are in a row up to each place, and from it on.
    """

    codes: Int8[ndarray, " l"]
    packed: UInt64[ndarray, " l"]
    before: Int[ndarray, " l"]
    after: Int[ndarray, " l"]


class _Part(NamedTuple):
    """Some of the training set: stretches of its sequences, joined.

    Stretch i begins at place `begins[i]` with the letter `offsets[i]` of sequence `records[i]`.
    `words` are those that are looked up, in ascending order, and `places` where they begin;
    `is_kept`: whether a place is among them. `frequencies` (4,) counts the letters that no earlier
    part holds.
    """

    letters: _Letters
    begins: Int64[ndarray, " s"]
    records: Int64[ndarray, " s"]
    offsets: Int64[ndarray, " s"]
    words: Int[ndarray, " w"]
    places: Int64[ndarray, " w"]
    is_kept: Bool[ndarray, " l"]
    frequencies: Int64[ndarray, "4"]


class _Matches(NamedTuple):
    """Where matches begin in a block of samples and in a part, and their letters."""

    ours: Int64[ndarray, " m"]
    theirs: Int64[ndarray, " m"]
    length: Int64[ndarray, " m"]


class _Nearest(NamedTuple):
    """The nearest stretch of each of some samples; `score` 0 where there is none."""

    score: Int64[ndarray, " n"]
    start: Int64[ndarray, " n"]
    end: Int64[ndarray, " n"]
    record: Int64[ndarray, " n"]
    record_start: Int64[ndarray, " n"]
    record_end: Int64[ndarray, " n"]
    strand: Int64[ndarray, " n"]


class _Samples:
    """A block of n samples, and what is found of them, part by part.

    Both strands are joined: place x of the block is place x, and 2 l - 1 - x on the other strand.
    Words begin at `places`; in the order `order` of these they are `words`, which ascend.
    *Rows* are the samples, then their other strands from the last sample to the first, so that
    row i of the 2 n is the other strand of row 2 n - 1 - i.
    """

    def __init__(self, block: Block, first: int) -> None:
        n, length = len(block.units), 2 * len(block.codes)
        complement = np.where(block.codes >= 0, 3 - block.codes, -1).astype(np.int8)
        self.letters = _letters(np.concatenate([block.codes, complement[::-1]]))
        begins = np.searchsorted(block.owner, np.arange(n))
        ends = np.append(begins[1:], len(block.codes)) - 1  # a separator follows each sample
        self.first = first
        self.places, words = _words(self.letters)
        self.order = np.argsort(words)
        self.words = words[self.order]
        self.begins = np.concatenate([begins, length - ends[::-1]])
        self.ends = np.concatenate([ends, length - begins[::-1]])
        self.n_letters = np.bincount(block.owner, block.codes >= 0, n).astype(np.int64)
        self.longest = np.zeros(n, np.int64)
        self.turns = np.zeros(length + 1, np.int64)  # +1 where a long match begins, -1 at its end
        self.nearest = _Nearest(*(np.zeros(n, np.int64) for _ in _Nearest._fields))
        self.nearest.record[:] = -1

    def row(self, place: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
        """The row of each place."""
        return np.searchsorted(self.begins, place, side="right") - 1

    def sample(self, row: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
        """The sample of each row, counted from the block's first."""
        return np.minimum(row, len(self.begins) - 1 - row)

    def covered(self) -> Float[ndarray, " n"]:
        """The share of each sample's letters in long matches, on either strand."""
        n, inside = len(self.n_letters), np.cumsum(self.turns[:-1]) > 0
        total = np.concatenate([[0], np.cumsum(inside | inside[::-1])])
        found = total[self.ends[:n]] - total[self.begins[:n]]
        return np.divide(found, self.n_letters, out=np.zeros(n), where=self.n_letters > 0)


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
        held = _Samples(block, n_samples)
        theirs = np.zeros(4, np.int64)
        for part in _parts(training(), overlap=int((held.ends - held.begins).max())):
            _meet(held, part, among_themselves=among_themselves)
            theirs += part.frequencies
        near = held.nearest
        span = near.end - near.start
        same = np.divide(
            near.score + _MISMATCH * span,
            (1 + _MISMATCH) * span,
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


def _letters(codes: Int8[ndarray, " l"]) -> _Letters:
    is_letter = codes >= 0
    packed = np.where(is_letter, codes, 0).astype(np.uint64)
    held = 1
    while held < _PACKED:
        following = np.zeros_like(packed)
        following[:-held] = packed[held:]
        packed = (packed << np.uint64(2 * held)) | following
        held *= 2
    place = np.arange(len(codes), dtype=np.int32)
    last = np.maximum.accumulate(np.where(is_letter, -1, place))
    before = np.concatenate([[0], place[:-1] - last[:-1]]).astype(np.int32)
    end = np.where(is_letter, len(codes), place)[::-1]
    after = np.minimum.accumulate(end)[::-1] - place
    return _Letters(codes, packed, before, after.astype(np.int32))


def _words(letters: _Letters) -> tuple[Int64[ndarray, " w"], Int32[ndarray, " w"]]:
    """Where words begin, and the words there."""
    places = np.flatnonzero(letters.after >= WORD)
    words = letters.packed[places] >> np.uint64(2 * (_PACKED - WORD))
    return places, words.astype(np.int32)


def _parts(sequences: Iterable[str], *, overlap: int) -> Iterator[_Part]:
    """The training set, some letters at a time. Longer sequences are cut, into stretches that
    overlap so that any `overlap` letters in a row are in one of them."""
    size = max(_PART_LETTERS, 2 * overlap)
    pieces: list[tuple[Int8[ndarray, " _"], int, int, int]] = []
    held = 0
    for number, sequence in enumerate(sequences):
        codes = codes_of(sequence)
        for offset in range(0, max(len(codes) - overlap, 1), size - overlap):
            piece = codes[offset : offset + size]
            if pieces and held + len(piece) > size:
                yield _part(pieces)
                pieces, held = [], 0
            pieces.append((piece, number, offset, overlap if offset else 0))
            held += len(piece)
    if pieces:
        yield _part(pieces)


def _part(pieces: Sequence[tuple[Int8[ndarray, " _"], int, int, int]]) -> _Part:
    """Stretches: their codes, sequence, offset in it, and letters that were in the one before."""
    separator = np.full(1, -1, np.int8)
    codes = np.concatenate([part for piece in pieces for part in (piece[0], separator)])
    lengths = np.array([len(piece[0]) + 1 for piece in pieces])
    new = np.concatenate([piece[0][piece[3] :] for piece in pieces])
    letters = _letters(codes)
    places, words = _words(letters)
    both = np.sort(words.astype(np.int64) << 32 | places)  # several times as fast as argsort
    words, places = (both >> 32).astype(np.int32), both & 0xFFFFFFFF
    first = _rank(words) < _FREQUENT
    words, places = words[first], places[first]
    is_kept = np.zeros(len(codes), bool)
    is_kept[places] = True
    return _Part(
        letters,
        np.cumsum(lengths) - lengths,
        np.array([piece[1] for piece in pieces]),
        np.array([piece[2] for piece in pieces]),
        words,
        places,
        is_kept,
        np.bincount(new[new >= 0], minlength=4),
    )


def _meet(samples: _Samples, part: _Part, *, among_themselves: bool) -> None:
    """Looks for the samples in a part of the training set."""
    low, high = np.empty((2, len(samples.places)), np.int64)
    low[samples.order] = np.searchsorted(part.words, samples.words)
    high[samples.order] = np.searchsorted(part.words, samples.words, side="right")
    met = high > low
    places, low, times = samples.places[met], low[met], (high - low)[met]
    of_row = np.bincount(samples.row(places), times, len(samples.begins)).astype(np.int64)
    # whole rows at a time
    parts = np.flatnonzero(np.diff(np.cumsum(of_row) // _HITS)) + 1
    bounds = np.searchsorted(places, samples.begins[parts]).tolist()
    for begin, end in pairwise([0, *bounds, len(places)]):
        if begin == end:
            continue
        each = np.repeat(np.arange(begin, end), times[begin:end])
        theirs = part.places[low[each] + _rank(each)]
        ours = places[each]
        if among_themselves:
            own = samples.first + samples.sample(samples.row(ours))
            others = part.records[_stretch(part, theirs)] != own
            ours, theirs = ours[others], theirs[others]
        found = _matches(samples.letters, part, ours, theirs)
        if len(found.ours):
            _note(samples, found)
            _align(samples, part, found)


def _matches(
    ours: _Letters, part: _Part, i: Int64[ndarray, " h"], j: Int64[ndarray, " h"]
) -> _Matches:
    """The matches that the words at places i and j belong to; each once, or a few times where
    words in it are not looked up."""
    theirs = part.letters
    is_later = (
        (ours.before[i] > 0)
        & (theirs.before[j] > 0)
        & (ours.codes[i - 1] == theirs.codes[j - 1])
        & part.is_kept[j - 1]
    )
    i, j = i[~is_later], j[~is_later]
    back = _common(ours, theirs, i, j, forward=False)
    return _Matches(i - back, j - back, back + _common(ours, theirs, i, j, forward=True))


def _common(
    ours: _Letters,
    theirs: _Letters,
    i: Int64[ndarray, " m"],
    j: Int64[ndarray, " m"],
    *,
    forward: bool,
) -> Int64[ndarray, " m"]:
    """How many letters are the same from places i and j on, or up to them."""
    if forward:
        most = np.minimum(ours.after[i], theirs.after[j]).astype(np.int64)
    else:
        most = np.minimum(ours.before[i], theirs.before[j]).astype(np.int64)
    same = np.zeros(len(i), np.int64)
    active = np.flatnonzero(most > 0)
    while len(active):
        done = same[active]
        if forward:
            a, b = ours.packed[i[active] + done], theirs.packed[j[active] + done]
            found = (64 - _bits((a ^ b) & ~((a ^ b) >> np.uint64(1)))) // 2
        else:
            a = _packed_before(ours, i[active] - done)
            b = _packed_before(theirs, j[active] - done)
            lowest = (a ^ b) & (~(a ^ b) + np.uint64(1))
            found = np.where(a == b, _PACKED, (_bits(lowest) - 1) // 2)
        same[active] += found
        active = active[(found == _PACKED) & (same[active] < most[active])]
    return np.minimum(same, most)


def _packed_before(letters: _Letters, place: Int64[ndarray, " m"]) -> UInt64[ndarray, " m"]:
    """The 32 letters up to each place, the last being the least significant."""
    missing = np.maximum(_PACKED - place, 0).astype(np.uint64)
    return letters.packed[np.maximum(place - _PACKED, 0)] >> (np.uint64(2) * missing)


def _bits(number: UInt64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """The number of bits of integers whose second bit is 0, so that no rounding adds one."""
    return np.frexp(number.astype(np.float64))[1].astype(np.int64)


def _note(samples: _Samples, found: _Matches) -> None:
    """Keeps the longest match of each sample, and where long ones are."""
    np.maximum.at(samples.longest, samples.sample(samples.row(found.ours)), found.length)
    long = found.length >= LONG
    begins = found.ours[long]
    size = len(samples.turns)
    samples.turns += np.bincount(begins, minlength=size)
    samples.turns -= np.bincount(begins + found.length[long], minlength=size)


def _align(samples: _Samples, part: _Part, found: _Matches) -> None:
    """Aligns samples along the diagonals with most letters in matches, and keeps the best."""
    width = len(samples.letters.codes) + len(part.letters.codes)
    shift = found.theirs - found.ours + len(samples.letters.codes)
    key = samples.row(found.ours) * width + shift
    order = np.argsort(key)
    begins = np.flatnonzero(np.diff(key[order], prepend=-1))
    row, shift = np.divmod(key[order][begins], width)
    total = np.add.reduceat(found.length[order], begins)
    order = np.argsort((row << 32) - total, kind="stable")
    order = order[_rank(row[order]) < _DIAGONALS]
    row, shift = row[order], shift[order] - len(samples.letters.codes)
    longest = int((samples.ends - samples.begins).max())
    for begin in range(0, len(row), max(_CELLS // longest, 1)):
        some = slice(begin, begin + max(_CELLS // longest, 1))
        _keep(samples, part, row[some], shift[some])


def _keep(
    samples: _Samples, part: _Part, row: Int64[ndarray, " c"], shift: Int64[ndarray, " c"]
) -> None:
    """Keeps what is better than the nearest stretches so far, of these diagonals: places of rows
    and, `shift` further on, places of the part."""
    sizes = (samples.ends - samples.begins)[row]
    column = np.arange(sizes.max())
    ours = samples.begins[row][:, None] + column
    theirs = ours + shift[:, None]
    length = len(part.letters.codes)
    a = samples.letters.codes[np.minimum(ours, len(samples.letters.codes) - 1)]
    b = part.letters.codes[np.clip(theirs, 0, length - 1)]
    inside = (column < sizes[:, None]) & (theirs >= 0) & (theirs < length) & (a >= 0) & (b >= 0)
    scores = np.where(a == b, 1, -_MISMATCH)
    score, start, end = _best_stretches(np.where(inside, scores, -3 * len(column)))
    sample = samples.sample(row)
    order = np.lexsort((-score, sample))
    order = order[_rank(sample[order]) == 0]
    order = order[score[order] > samples.nearest.score[sample[order]]]
    sample, row, start, end = sample[order], row[order], start[order], end[order]
    place = samples.begins[row] + start + shift[order]
    stretch = _stretch(part, place)
    record_start = place - part.begins[stretch] + part.offsets[stretch]
    is_other = row >= len(samples.n_letters)
    size = sizes[order]
    better = _Nearest(
        score[order],
        np.where(is_other, size - end, start),
        np.where(is_other, size - start, end),
        part.records[stretch],
        record_start,
        record_start + end - start,
        np.where(is_other, -1, 1),
    )
    for held, new in zip(samples.nearest, better, strict=True):
        held[sample] = new


def _best_stretches(
    scores: Int64[ndarray, "c l"],
) -> tuple[Int64[ndarray, " c"], Int64[ndarray, " c"], Int64[ndarray, " c"]]:
    """Of each row the greatest sum of neighbouring scores, and from where to where."""
    rows = np.arange(len(scores))
    total = np.concatenate([np.zeros((len(scores), 1), np.int64), scores.cumsum(1)], 1)
    lowest = np.minimum.accumulate(total, 1)
    end = (total[:, 1:] - lowest[:, :-1]).argmax(1) + 1
    floor = lowest[rows, end - 1]
    start = (total == floor[:, None]).argmax(1)
    return total[rows, end] - floor, start, end


def _stretch(part: _Part, place: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    return np.searchsorted(part.begins, place, side="right") - 1


def _rank(values: Shaped[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """How many equal neighbours stand before each."""
    here = np.arange(len(values))
    is_first = np.ones(len(values), bool)
    is_first[1:] = values[1:] != values[:-1]
    return here - np.maximum.accumulate(np.where(is_first, here, 0))
