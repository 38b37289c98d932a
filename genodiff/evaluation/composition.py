"""Composition of DNA: GC, dinucleotides, runs of one letter, and stretches of low complexity.

All of it is sums over sequences, so that one pass gives every figure with its interval over whole
sequences (`resampling`). Words and runs lie within one sequence and hold no N; lower case is read
as upper case.

`gc`                   share of G and C among all letters.
`gc_spread`            standard deviation of the sequences' own shares.
`cpg_observed_expected`  CG, over what C and G make without order: n(CG) n / (n(C) n(G))
                       (Gardiner-Garden & Frommer 1987).
`rho_XY`               odds ratio f(XY) / (f(X) f(Y)) of dinucleotides, with frequencies of both
                       strands together (rho*: Burge, Campbell & Karlin 1992, eq. 2).
`homopolymers`         share of the letters that are in a run of 6 or more of the same.
`homopolymers_at`, `homopolymers_gc`  those of A and T, and of G and C.
`low_complexity`       share of the stretches of 64 letters, end to end, whose triplets repeat as
                       dustmasker masks them: score > 2 (level 20: Morgulis et al. 2006).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.resampling import (
    RESAMPLES,
    Resampled,
    SetDifference,
    deviations,
    difference,
    independent,
    unit_weights,
)
from genodiff.evaluation.text_statistics import Measure
from genodiff.evaluation.uncertainty import student_975
from genodiff.evaluation.words import Block, Sequences, blocks, words

LONGEST_RUN = 20
"""Longer runs are counted with those of this length."""
GC_BINS = 50

_LONG_RUN = 6
_STRETCH = 64
_DUST = 2.0
# Columns of the sums over sequences.
_ONE, _GC, _GC_SQUARE = 0, 1, 2
_LETTERS = slice(3, 7)
_PAIRS = slice(7, 23)
_RUNS = slice(23, 23 + 2 * LONGEST_RUN)
_STRETCHES, _LOW = 23 + 2 * LONGEST_RUN, 24 + 2 * LONGEST_RUN
_BINS = slice(25 + 2 * LONGEST_RUN, 25 + 2 * LONGEST_RUN + GC_BINS)
_COLUMNS = _BINS.stop


class Histogram(NamedTuple):
    """Values (b,) of bins from `edges[i]` to `edges[i + 1]`, with their 95 % intervals."""

    edges: Float[ndarray, " e"]
    values: Float[ndarray, " b"]
    low: Float[ndarray, " b"]
    high: Float[ndarray, " b"]

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: values.tolist() for name, values in self._asdict().items()}


class Distance(NamedTuple):
    """Distance of two distributions; `noise` is what two samples of one law as large would have on
    average, and `p_value` how probable at least `value` would then be."""

    value: float
    noise: float
    p_value: float

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()


class Composition(NamedTuple):
    """What is counted in a set of sequences, and in its resamples, whose units are `n_units`."""

    sums: Float[ndarray, " f"]
    resampled: Float[ndarray, "r f"]
    n_units: int

    @property
    def n(self) -> int:
        """Sequences that hold a letter."""
        return int(self.sums[_ONE])

    @property
    def measures(self) -> dict[str, Measure]:
        """The figures of this file, by name; without those of which there is nothing to count."""
        return {name: figure.measure for name, figure in self.figures.items()}

    @property
    def figures(self) -> dict[str, Resampled]:
        """`measures` and their resamples."""
        found = _figures(np.concatenate([self.sums[None], self.resampled]))
        return {
            name: Resampled(float(values[0]), values[1:], self.n_units)
            for name, values in found.items()
            if np.isfinite(values).all()
        }

    @property
    def gc_histogram(self) -> Histogram:
        """Share of the sequences whose own GC is in each of 50 bins."""
        edges = np.linspace(0, 1, GC_BINS + 1)
        return _histogram(edges, _gc_shares(self.sums), _gc_shares(self.resampled), self.n_units)

    @property
    def runs_at(self) -> Histogram:
        """Runs of A or of T per 1,000 letters, by length: 1 to 19, and 20 or more."""
        return self._runs(0)

    @property
    def runs_gc(self) -> Histogram:
        """Runs of G or of C per 1,000 letters, by length: 1 to 19, and 20 or more."""
        return self._runs(1)

    def _runs(self, kind: int) -> Histogram:
        edges = np.arange(1.0, LONGEST_RUN + 2)
        here, resampled = (_runs_per_kb(sums)[..., kind, :] for sums in self[:2])
        return _histogram(edges, here, resampled, self.n_units)

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "sequences": self.n,
            "units": self.n_units,
            **{name: value.summary() for name, value in self.measures.items()},
            "gc_histogram": self.gc_histogram.summary(),
            "runs_at": self.runs_at.summary(),
            "runs_gc": self.runs_gc.summary(),
        }


def composition(
    sequences: Sequences,
    *,
    data_ids: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Composition:
    """Counts in one pass.

    Args:
        sequences: strings, or arrays of ids.
        data_ids: ids of A, C, G, T in this order; needed for arrays of ids.
        units: what repeats independently (the record that a sequence was cut from), one number a
            sequence; None: each sequence.
        resamples: of whole units.
        seed: of the resamples.

    Raises:
        UserError: no letter in any sequence.
    """
    sums, resampled = np.zeros(_COLUMNS), np.zeros((resamples, _COLUMNS))
    found: set[int] = set()
    for block in blocks(sequences, data_ids=data_ids, units=units):
        counts = _counts(block)
        sums += counts.sum(0, dtype=np.float64)
        resampled += unit_weights(block.units, resamples, seed).T @ counts
        found.update(block.units.tolist())
    if not sums[_ONE]:
        raise UserError(
            f"{len(found)} sequences hold no letter A, C, G, T; give sequences of DNA."
        )
    return Composition(sums, resampled, len(found))


def composition_differences(
    sample: Composition, reference: Composition
) -> dict[str, SetDifference]:
    """Each figure of the sample less that of the reference, where both have it.

    Raises:
        UserError: fewer than two units in either.
    """
    theirs = reference.figures
    return {
        name: difference(figure, theirs[name])
        for name, figure in sample.figures.items()
        if name in theirs
    }


def gc_distance(sample: Composition, reference: Composition) -> Distance:
    """Earth mover's distance of the sequences' GC shares: by how much of GC content, on average, a
    sequence of one set would have to change for the sets to be alike (bins of 2 %).

    Raises:
        UserError: fewer than two units in either.
    """
    ours, theirs = (_gc_shares(each.sums).cumsum() for each in (sample, reference))
    ours_off, theirs_off = (
        deviations(_gc_shares(each.resampled).cumsum(1), here, each.n_units)
        for each, here in ((sample, ours), (reference, theirs))
    )
    value = np.abs(ours - theirs).sum() / GC_BINS
    noise = np.abs(ours_off - independent(theirs_off)).sum(1) / GC_BINS
    p_value = (1 + (noise >= value).sum()) / (1 + len(noise))
    return Distance(float(value), float(noise.mean()), float(p_value))


def _figures(sums: Float[ndarray, "r f"]) -> dict[str, Float[ndarray, " r"]]:
    """Every figure of each row of sums; NaN where there is nothing to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        letters = sums[..., _LETTERS]
        n = letters.sum(-1)
        mean = sums[..., _GC] / sums[..., _ONE]
        square = sums[..., _GC_SQUARE] / sums[..., _ONE]
        pairs = sums[..., _PAIRS].reshape(*sums.shape[:-1], 4, 4)
        figures = {
            "gc": letters[..., 1:3].sum(-1) / n,
            "gc_spread": np.sqrt(np.maximum(square - mean**2, 0)),
            "cpg_observed_expected": pairs[..., 1, 2] * n / (letters[..., 1] * letters[..., 2]),
        }
        both = letters + letters[..., ::-1]
        share = both / both.sum(-1, keepdims=True)
        # The reverse complement of XY is the complement of Y, then that of X.
        both_pairs = pairs + np.swapaxes(pairs, -1, -2)[..., ::-1, ::-1]
        pair_share = both_pairs / both_pairs.sum((-1, -2), keepdims=True)
        for x, y in ((x, y) for x in range(4) for y in range(4) if (x, y) <= (3 - y, 3 - x)):
            name = f"rho_{'ACGT'[x]}{'ACGT'[y]}"
            figures[name] = pair_share[..., x, y] / (share[..., x] * share[..., y])
        lengths = np.arange(1, LONGEST_RUN + 1)
        runs = sums[..., _RUNS].reshape(*sums.shape[:-1], 2, LONGEST_RUN)
        long = (runs * lengths)[..., _LONG_RUN - 1 :].sum(-1) / n[..., None]
        figures |= {
            "homopolymers": long.sum(-1),
            "homopolymers_at": long[..., 0],
            "homopolymers_gc": long[..., 1],
            "low_complexity": sums[..., _LOW] / sums[..., _STRETCHES],
        }
    return figures


def _gc_shares(sums: Float[ndarray, "*r f"]) -> Float[ndarray, "*r b"]:
    return sums[..., _BINS] / sums[..., _ONE, None]


def _runs_per_kb(sums: Float[ndarray, "*r f"]) -> Float[ndarray, "*r 2 b"]:
    runs = sums[..., _RUNS].reshape(*sums.shape[:-1], 2, LONGEST_RUN)
    return 1000 * runs / sums[..., _LETTERS].sum(-1)[..., None, None]


def _histogram(
    edges: Float[ndarray, " e"],
    values: Float[ndarray, " b"],
    resampled: Float[ndarray, "r b"],
    n_units: int,
) -> Histogram:
    if n_units < 2:
        unknown = np.full(len(values), np.nan)
        return Histogram(edges, values, unknown, unknown)
    error = deviations(resampled, values, n_units).std(0)
    half = student_975(n_units - 1) * error
    return Histogram(edges, values, np.maximum(values - half, 0), values + half)


def _counts(block: Block) -> Float32[ndarray, "n f"]:
    """What is counted in each sequence of a block."""
    n = len(block.units)
    counts = np.zeros((n, _COLUMNS), np.float32)
    for columns, (ends, word) in zip((_LETTERS, _PAIRS), words(block.codes, 4, 2), strict=True):
        width = columns.stop - columns.start
        table = np.bincount(block.owner[ends] * width + word, minlength=n * width)
        counts[:, columns] = table.reshape(n, width)
    letters = counts[:, _LETTERS].sum(1)
    held = np.flatnonzero(letters)
    gc = counts[held, _LETTERS][:, 1:3].sum(1) / letters[held]
    counts[held, _ONE], counts[held, _GC], counts[held, _GC_SQUARE] = 1, gc, gc**2
    bins = np.minimum((gc * GC_BINS).astype(int), GC_BINS - 1)
    counts[held, _BINS.start + bins] = 1
    counts[:, _RUNS] = _runs(block)
    starts = _stretches(block)
    is_low = _dust_scores(block.codes[starts[:, None] + np.arange(_STRETCH)]) > _DUST
    counts[:, _STRETCHES] = np.bincount(block.owner[starts], minlength=n)
    counts[:, _LOW] = np.bincount(block.owner[starts], is_low, minlength=n)
    return counts


def _runs(block: Block) -> Int[ndarray, "n f"]:
    """Runs of A or T, then of C or G, by length."""
    codes, n = block.codes, len(block.units)
    begins = np.flatnonzero(np.diff(codes, prepend=np.int8(-2)))
    lengths = np.diff(begins, append=len(codes))
    is_letter = codes[begins] >= 0
    begins, lengths = begins[is_letter], lengths[is_letter]
    is_gc = (codes[begins] == 1) | (codes[begins] == 2)
    place = (2 * block.owner[begins] + is_gc) * LONGEST_RUN + np.minimum(lengths, LONGEST_RUN) - 1
    return np.bincount(place, minlength=n * 2 * LONGEST_RUN).reshape(n, -1)


def _stretches(block: Block) -> Int[ndarray, " s"]:
    """Where stretches of 64 letters without N begin, end to end from each sequence's start."""
    codes = block.codes
    first = np.searchsorted(block.owner, np.arange(len(block.units)))
    within = np.arange(len(codes)) - first[block.owner]
    strange = np.concatenate([[0], np.cumsum(codes < 0)])
    starts = np.flatnonzero(within[: max(len(codes) - _STRETCH + 1, 0)] % _STRETCH == 0)
    return starts[strange[starts + _STRETCH] == strange[starts]]


def _dust_scores(stretches: Int[ndarray, "s l"]) -> Float[ndarray, " s"]:
    """sum c (c - 1) / 2 over the triplets, c times each, by their number less one."""
    letters = stretches.astype(np.int64)
    triplets = 16 * letters[:, :-2] + 4 * letters[:, 1:-1] + letters[:, 2:]
    rows = 64 * np.arange(len(triplets))[:, None]
    times = np.bincount((rows + triplets).ravel(), minlength=64 * len(triplets)).reshape(-1, 64)
    return (times * (times - 1) / 2).sum(1) / (triplets.shape[1] - 1)
