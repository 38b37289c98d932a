"""How hits of motifs lie to each other and along their sequences, in samples and a reference.

*Spacing*: two hits that do not overlap, of one motif or of two, have a gap, the bases between
them; it is the same read from either strand. All pairs with a gap below 150 are counted, those on
one strand apart from those on opposite ones. *Placement*: the tenth of its sequence in which the
middle of a hit is.

Both are tested by permutation: which sequences are samples is shuffled, and how often the sets
then differ as much is the p-value, whatever hits of one sequence have to do with each other
(Phipson & Smyth 2010, with one added to both counts). Sequences of one record are shuffled like
any others, so that what a few records are full of, such as a tandem repeat, is a finding too.
Clear cases stop early (Besag & Clifford 1991). Which motifs are tested follows from how many hits
or pairs they have, not from what is tested of them. q-values are Benjamini & Hochberg's, over all
spacings and over all placements.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Real
from numpy import ndarray

from genodiff.evaluation.motif_scan import Hits
from genodiff.evaluation.scores import benjamini_hochberg

_GAPS = 150
_PAIRS = 25  # tested, of one motif and of two different ones
_FEWEST = 10  # pairs in both sets together, or hits in each
_SHRINKAGE = 10  # pairs of equally likely gaps that are added to a set to predict the other's
_PARTS = 10
_PLACEMENTS = 200
_PERMUTATIONS = 20_000
_BLOCK = 250
_EXCEEDED = 10  # permutations at least as extreme settle that nothing is found


class Spacing(NamedTuple):
    """Gaps between hits of two motifs, which may be one and the same.

    `samples` and `reference` (150,): pairs of hits with a gap of 0, 1, ... bases. `gap`: the one
    that differs most between them; it is more frequent in `more_in` than the other set predicts,
    by `statistic` = (count - predicted) / sqrt(predicted + 1).
    """

    motifs: tuple[str, str]
    strands: Literal["same", "opposite"]
    samples: Int[ndarray, " gaps"]
    reference: Int[ndarray, " gaps"]
    gap: int
    more_in: Literal["samples", "reference"]
    statistic: float
    p_value: float
    q_value: float

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **self._asdict(),
            "motifs": list(self.motifs),
            "samples": self.samples.tolist(),
            "reference": self.reference.tolist(),
        }


class Placement(NamedTuple):
    """Along the sequences: `samples` and `reference` (10,) are hits in each tenth of them, and
    `distance` the largest between their cumulative shares (Kolmogorov's and Smirnov's)."""

    name: str
    samples: Int[ndarray, " parts"]
    reference: Int[ndarray, " parts"]
    distance: float
    p_value: float
    q_value: float

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **self._asdict(),
            "samples": self.samples.tolist(),
            "reference": self.reference.tolist(),
        }


def spacings(samples: Hits, reference: Hits, *, seed: int = 0) -> tuple[Spacing, ...]:
    """Spacings in the order of their p-values, of up to 25 motifs with themselves and 25 pairs of
    two: those with most pairs of hits beyond what hits at random places would have. No motif is in
    two pairs of two."""
    hits = _joined(samples, reference)
    is_sample = np.arange(len(hits.lengths)) < len(samples.lengths)
    tables = _gap_tables(hits, _chosen_pairs(hits))
    p_values = _permuted(list(tables.values()), is_sample, _largest_surprise, seed)
    found = []
    for ((a, b), opposite), table, p_value, q_value in zip(
        tables, tables.values(), p_values, benjamini_hochberg(p_values), strict=True
    ):
        of_samples, of_reference = table.split(is_sample)
        more = np.stack([_surprise(of_samples, of_reference), _surprise(of_reference, of_samples)])
        which, gap = np.unravel_index(more.argmax(), more.shape)
        found.append(
            Spacing(
                (hits.motifs[a][0], hits.motifs[b][0]),
                "opposite" if opposite else "same",
                of_samples,
                of_reference,
                int(gap),
                "reference" if which else "samples",
                float(more.max()),
                p_value,
                q_value,
            )
        )
    return tuple(sorted(found, key=lambda each: (each.p_value, -each.statistic)))


def placements(samples: Hits, reference: Hits, *, seed: int = 0) -> tuple[Placement, ...]:
    """Placements in the order of their p-values, of the 200 motifs with most hits, of those that
    have 10 in each set."""
    hits = _joined(samples, reference)
    is_sample = np.arange(len(hits.lengths)) < len(samples.lengths)
    counts = [np.bincount(each.motif, minlength=len(each.motifs)) for each in (samples, reference)]
    motifs = np.argsort(-sum(counts), kind="stable")[:_PLACEMENTS]
    motifs = motifs[np.minimum(*counts)[motifs] >= _FEWEST]
    middle = 2 * hits.start + hits.widths[hits.motif]
    part = middle * _PARTS // (2 * hits.lengths[hits.sequence])
    tables = []
    for motif in motifs:
        own = hits.motif == motif
        tables.append(_Table.of(hits.sequence[own], part[own], _PARTS))
    p_values = _permuted(tables, is_sample, _scaled_distance, seed)
    q_values = benjamini_hochberg(p_values)
    found = []
    for motif, table, p_value, q_value in zip(motifs, tables, p_values, q_values, strict=True):
        split = table.split(is_sample)
        name, distance = hits.motifs[motif][0], float(_distance(*split))
        found.append(Placement(name, split[0], split[1], distance, p_value, q_value))
    return tuple(sorted(found, key=lambda each: (each.p_value, -each.distance)))


class _Table(NamedTuple):
    """How often each of g values occurs in each of those sequences that have any."""

    rows: Int[ndarray, " r"]
    counts: Float32[ndarray, "r g"]

    @classmethod
    def of(
        cls, sequence: Int[ndarray, " h"], value: Int[ndarray, " h"], n_values: int
    ) -> "_Table":
        rows, row = np.unique(sequence, return_inverse=True)
        counts = np.bincount(row * n_values + value, minlength=len(rows) * n_values)
        return cls(rows, counts.reshape(-1, n_values).astype(np.float32))

    def split(
        self, is_sample: Bool[ndarray, " n"]
    ) -> tuple[Int[ndarray, " g"], Int[ndarray, " g"]]:
        """Sums over samples, and over the rest."""
        own = is_sample[self.rows]
        of_samples, of_rest = self.counts[own].sum(0), self.counts[~own].sum(0)
        return of_samples.astype(np.int64), of_rest.astype(np.int64)


def _joined(samples: Hits, reference: Hits) -> Hits:
    """The hits of both sets: sequences of the reference have the numbers after the samples'."""
    return samples._replace(
        lengths=np.concatenate([samples.lengths, reference.lengths]),
        letters=np.concatenate([samples.letters, reference.letters]),
        units=np.concatenate([samples.units, reference.units]),
        sequence=np.concatenate([samples.sequence, reference.sequence + len(samples.lengths)]),
        motif=np.concatenate([samples.motif, reference.motif]),
        start=np.concatenate([samples.start, reference.start]),
        is_reverse=np.concatenate([samples.is_reverse, reference.is_reverse]),
        given=samples.given + reference.given,
    )


def _neighbours(
    hits: Hits,
) -> Iterator[tuple[Int[ndarray, " p"], Int[ndarray, " p"], Int[ndarray, " p"]]]:
    """Numbers of the first and the second hit of each pair of a sequence, and their gap: the hits
    next to each other, then those with one between them, and so on."""
    end = hits.start + hits.widths[hits.motif]
    first, ahead = np.arange(len(end)), 0
    while len(first):
        ahead += 1
        first = first[first + ahead < len(end)]
        second = first + ahead
        near = (hits.sequence[first] == hits.sequence[second]) & (
            hits.start[second] - end[first] < _GAPS
        )
        first, second = first[near], second[near]
        apart = hits.start[second] >= end[first]
        first_apart, second_apart = first[apart], second[apart]
        yield first_apart, second_apart, hits.start[second_apart] - end[first_apart]


def _chosen_pairs(hits: Hits) -> list[tuple[int, int]]:
    """Pairs of motifs with most more pairs of hits than expected of hits at random places."""
    m = len(hits.motifs)
    found = np.zeros(m * m, np.int64)
    for first, second, _ in _neighbours(hits):
        np.add.at(found, _pair_numbers(hits, first, second), 1)
    one, other = np.divmod(np.flatnonzero(found), m)
    frequency = np.bincount(hits.motif, minlength=m) / hits.letters.sum()
    expected = frequency[one] * frequency[other] * hits.letters.sum() * 2 * _GAPS
    expected[one == other] /= 2
    found = found[found > 0]
    order = np.argsort(-(found - expected) / np.sqrt(expected + 1), kind="stable")
    alone: list[tuple[int, int]] = []
    together: list[tuple[int, int]] = []
    paired: set[int] = set()
    for a, b in zip(one[order].tolist(), other[order].tolist(), strict=True):
        if a == b and len(alone) < _PAIRS:
            alone.append((a, b))
        elif a != b and len(together) < _PAIRS and not {a, b} & paired:
            together.append((a, b))
            paired |= {a, b}
    return alone + together


def _pair_numbers(
    hits: Hits, first: Int[ndarray, " p"], second: Int[ndarray, " p"]
) -> Int[ndarray, " p"]:
    a, b = hits.motif[first], hits.motif[second]
    return np.minimum(a, b) * len(hits.motifs) + np.maximum(a, b)


def _gap_tables(
    hits: Hits, chosen: list[tuple[int, int]]
) -> dict[tuple[tuple[int, int], bool], _Table]:
    """Gaps by sequence, of each of these pairs of motifs on the same strand and on opposite ones,
    of those with a few."""
    m = len(hits.motifs)
    place = np.full(m * m, -1)
    place[[a * m + b for a, b in chosen]] = np.arange(len(chosen))
    parts = [np.zeros((3, 0), np.int64)]
    for first, second, gap in _neighbours(hits):
        pair = place[_pair_numbers(hits, first, second)]
        opposite = hits.is_reverse[first] != hits.is_reverse[second]
        parts.append(np.stack([2 * pair + opposite, hits.sequence[first], gap])[:, pair >= 0])
    kind, sequence, gap = np.concatenate(parts, axis=1)
    tables = {}
    for i, pair in enumerate(chosen):
        for opposite in (False, True):
            own = kind == 2 * i + opposite
            if own.sum() >= _FEWEST:
                tables[pair, opposite] = _Table.of(sequence[own], gap[own], _GAPS)
    return tables


def _surprise(
    counts: Real[ndarray, "*s g"], others: Real[ndarray, "*s g"]
) -> Float[ndarray, "*s g"]:
    """How far counts are above what the shares in the other set predict for as many."""
    shares = (others + _SHRINKAGE / _GAPS) / (others.sum(-1, keepdims=True) + _SHRINKAGE)
    expected = counts.sum(-1, keepdims=True) * shares
    return (counts - expected) / np.sqrt(expected + 1)


def _largest_surprise(
    counts: Real[ndarray, "*s g"], others: Real[ndarray, "*s g"]
) -> Float[ndarray, "*s"]:
    both = np.maximum(_surprise(counts, others), _surprise(others, counts))
    return np.asarray(both.max(-1))


def _distance(
    counts: Real[ndarray, "*s g"], others: Real[ndarray, "*s g"]
) -> Float[ndarray, "*s"]:
    """Kolmogorov's and Smirnov's, of the cumulative shares."""
    cumulative = [
        each.cumsum(-1) / np.maximum(each.sum(-1, keepdims=True), 1) for each in (counts, others)
    ]
    return np.asarray(np.abs(cumulative[0] - cumulative[1]).max(-1))


def _scaled_distance(
    counts: Real[ndarray, "*s g"], others: Real[ndarray, "*s g"]
) -> Float[ndarray, "*s"]:
    """In units in which it is alike for any numbers of hits."""
    a, b = counts.sum(-1), others.sum(-1)
    return np.asarray(_distance(counts, others) * np.sqrt(a * b / (a + b)))


def _permuted(
    tables: Sequence[_Table],
    is_sample: Bool[ndarray, " n"],
    statistic: Callable[[ndarray, ndarray], ndarray],
    seed: int,
) -> list[float]:
    """p-values of a statistic of the sums over samples and over the rest."""
    random = np.random.default_rng(seed)
    observed = [statistic(*table.split(is_sample)) * (1 - 1e-9) for table in tables]
    exceeded, drawn = np.zeros(len(tables), int), np.zeros(len(tables), int)
    open_tests = list(range(len(tables)))
    while open_tests and drawn[open_tests[0]] < _PERMUTATIONS:
        labels = random.permuted(np.tile(is_sample, (_BLOCK, 1)), axis=1).astype(np.float32)
        for i in open_tests:
            of_samples = (labels[:, tables[i].rows] @ tables[i].counts).astype(np.float64)
            of_rest = tables[i].counts.sum(0, dtype=np.float64) - of_samples
            exceeded[i] += (statistic(of_samples, of_rest) >= observed[i]).sum()
            drawn[i] += _BLOCK
        open_tests = [i for i in open_tests if exceeded[i] < _EXCEEDED]
    return ((exceeded + 1) / (drawn + 1)).tolist()
