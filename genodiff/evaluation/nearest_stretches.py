"""The engine of `neighbours`: matches and nearest stretches of samples in a training set.

Words of 12 letters that both have are extended, 32 letters at a time, to the matches they belong
to; on the diagonals that hold most letters in matches the best alignment without gaps is found.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Int32, Int64, Shaped, UInt64
from numpy import ndarray

from genodiff.evaluation.words import Block, codes_of

WORD = 12
LONG = 24
"""Matches of so many letters cover a sample: hardly any is met by chance."""
MISMATCH = 2
"""What a letter that is not the same takes from an alignment; one that is adds 1."""

_FREQUENT = 32
_DIAGONALS = 4
_PART_LETTERS = 1 << 22
_HITS = 1 << 21
_CELLS = 1 << 21
_PACKED = 32  # letters in 64 bits


class Letters(NamedTuple):
    """Sequences joined, so that stretches of them are compared 32 letters at a time.

    `codes`: letters 0..3, -1 elsewhere and between sequences. `packed`: the 32 letters from each
    place on, the first being the most significant. `before` and `after`: how many letters there
    are in a row up to each place, and from it on.
    """

    codes: Int8[ndarray, " l"]
    packed: UInt64[ndarray, " l"]
    before: Int[ndarray, " l"]
    after: Int[ndarray, " l"]


class Part(NamedTuple):
    """Some of the training set: stretches of its sequences, joined.

    Stretch i begins at place `begins[i]` with the letter `offsets[i]` of sequence `records[i]`.
    `words` are those that are looked up, in ascending order, and `places` where they begin;
    `is_kept`: whether a place is among them. `frequencies` (4,) counts the letters that no earlier
    part holds.
    """

    letters: Letters
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


class Nearest(NamedTuple):
    """The nearest stretch of each of some samples; `score` 0 where there is none."""

    score: Int64[ndarray, " n"]
    start: Int64[ndarray, " n"]
    end: Int64[ndarray, " n"]
    record: Int64[ndarray, " n"]
    record_start: Int64[ndarray, " n"]
    record_end: Int64[ndarray, " n"]
    strand: Int64[ndarray, " n"]


class Samples:
    """A block of n samples, and what is found of them, part by part.

    Both strands are joined: place x of the block is place x, and 2 l - 1 - x on the other strand.
    Words begin at `places`; in the order `order` of these they are `words`, which ascend.
    *Rows* are the samples, then their other strands from the last sample to the first, so that
    row i of the 2 n is the other strand of row 2 n - 1 - i.
    """

    def __init__(self, block: Block, first: int) -> None:
        n, length = len(block.units), 2 * len(block.codes)
        complement = np.where(block.codes >= 0, 3 - block.codes, -1).astype(np.int8)
        self.letters = join_letters(np.concatenate([block.codes, complement[::-1]]))
        begins = np.searchsorted(block.owner, np.arange(n))
        ends = np.append(begins[1:], len(block.codes)) - 1  # a separator follows each sample
        self.first = first
        self.places, words = words_in(self.letters)
        self.order = np.argsort(words)
        self.words = words[self.order]
        self.begins = np.concatenate([begins, length - ends[::-1]])
        self.ends = np.concatenate([ends, length - begins[::-1]])
        self.n_letters = np.bincount(block.owner, block.codes >= 0, n).astype(np.int64)
        self.longest = np.zeros(n, np.int64)
        self.turns = np.zeros(length + 1, np.int64)  # +1 where a long match begins, -1 at its end
        self.nearest = Nearest(*(np.zeros(n, np.int64) for _ in Nearest._fields))
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


def join_letters(codes: Int8[ndarray, " l"]) -> Letters:
    """Of letters 0..3, with -1 elsewhere and between sequences."""
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
    return Letters(codes, packed, before, after.astype(np.int32))


def words_in(letters: Letters) -> tuple[Int64[ndarray, " w"], Int32[ndarray, " w"]]:
    """Where words begin, and the words there."""
    places = np.flatnonzero(letters.after >= WORD)
    words = letters.packed[places] >> np.uint64(2 * (_PACKED - WORD))
    return places, words.astype(np.int32)


def training_parts(sequences: Iterable[str], *, overlap: int) -> Iterator[Part]:
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


def _part(pieces: Sequence[tuple[Int8[ndarray, " _"], int, int, int]]) -> Part:
    """Stretches: their codes, sequence, offset in it, and letters that were in the one before."""
    separator = np.full(1, -1, np.int8)
    codes = np.concatenate([part for piece in pieces for part in (piece[0], separator)])
    lengths = np.array([len(piece[0]) + 1 for piece in pieces])
    new = np.concatenate([piece[0][piece[3] :] for piece in pieces])
    letters = join_letters(codes)
    places, words = words_in(letters)
    both = np.sort(words.astype(np.int64) << 32 | places)  # several times as fast as argsort
    words, places = (both >> 32).astype(np.int32), both & 0xFFFFFFFF
    first = _rank(words) < _FREQUENT
    words, places = words[first], places[first]
    is_kept = np.zeros(len(codes), bool)
    is_kept[places] = True
    return Part(
        letters,
        np.cumsum(lengths) - lengths,
        np.array([piece[1] for piece in pieces]),
        np.array([piece[2] for piece in pieces]),
        words,
        places,
        is_kept,
        np.bincount(new[new >= 0], minlength=4),
    )


def meet(samples: Samples, part: Part, *, among_themselves: bool) -> None:
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
    ours: Letters, part: Part, i: Int64[ndarray, " h"], j: Int64[ndarray, " h"]
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
    ours: Letters,
    theirs: Letters,
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


def _packed_before(letters: Letters, place: Int64[ndarray, " m"]) -> UInt64[ndarray, " m"]:
    """The 32 letters up to each place, the last being the least significant."""
    missing = np.maximum(_PACKED - place, 0).astype(np.uint64)
    return letters.packed[np.maximum(place - _PACKED, 0)] >> (np.uint64(2) * missing)


def _bits(number: UInt64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """The number of bits of integers whose second bit is 0, so that no rounding adds one."""
    return np.frexp(number.astype(np.float64))[1].astype(np.int64)


def _note(samples: Samples, found: _Matches) -> None:
    """Keeps the longest match of each sample, and where long ones are."""
    np.maximum.at(samples.longest, samples.sample(samples.row(found.ours)), found.length)
    long = found.length >= LONG
    begins = found.ours[long]
    size = len(samples.turns)
    samples.turns += np.bincount(begins, minlength=size)
    samples.turns -= np.bincount(begins + found.length[long], minlength=size)


def _align(samples: Samples, part: Part, found: _Matches) -> None:
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
    samples: Samples, part: Part, row: Int64[ndarray, " c"], shift: Int64[ndarray, " c"]
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
    scores = np.where(a == b, 1, -MISMATCH)
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
    better = Nearest(
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


def _stretch(part: Part, place: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    return np.searchsorted(part.begins, place, side="right") - 1


def _rank(values: Shaped[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """How many equal neighbours stand before each."""
    here = np.arange(len(values))
    is_first = np.ones(len(values), bool)
    is_first[1:] = values[1:] != values[:-1]
    return here - np.maximum.accumulate(np.where(is_first, here, 0))
