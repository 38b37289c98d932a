"""How often motifs occur in samples and in real sequences, and how they are arranged there.

What repeats independently is the *unit*: a sequence, or all sequences of one record of a genome.
A rate is of all hits over all known bases of a set; its error is the ratio estimator's over
units, and never less than that of a Poisson number. Rates are compared by Welch's t test, and
q-values are Benjamini & Hochberg's (1995) over the motifs: of findings with q < 0.05 at most 5 %
are expected to be false, and where nothing differs the chance of any finding is at most 5 %.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.metrics import pearson, spearman
from genodiff.evaluation.motif_arrangement import Placement, Spacing, placements, spacings
from genodiff.evaluation.motif_scan import Hits
from genodiff.evaluation.scores import benjamini_hochberg
from genodiff.evaluation.uncertainty import ratio_standard_error, student_975, student_p_value

_SPLITS = 20
_PER = 10_000


class Rate(NamedTuple):
    """Hits of a motif in a set: how many, in how many sequences, and in 10,000 known bases."""

    hits: int
    sequences_with_hit: int
    per_10kb: float
    confidence_95: tuple[float, float]

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**self._asdict(), "confidence_95": list(self.confidence_95)}


class MotifContent(NamedTuple):
    """Rates of a motif in samples and reference, and log2 of the one over the other, with half a
    hit more in each. `p_value`: of equal rates; `q_value`: over the motifs."""

    name: str
    alternate: str
    samples: Rate
    reference: Rate
    log2_ratio: float
    log2_ratio_95: tuple[float, float]
    p_value: float
    q_value: float

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **self._asdict(),
            "samples": self.samples.summary(),
            "reference": self.reference.summary(),
            "log2_ratio_95": list(self.log2_ratio_95),
        }


class Agreement(NamedTuple):
    """Correlations over motifs of log rates (with half a hit more), of `sequences` of the samples
    with as many of the reference; and of as many others of the reference with those, as a perfect
    generator would have. Means over random choices; the two halves have no unit in common."""

    pearson: float
    spearman: float
    pearson_of_halves: float
    spearman_of_halves: float
    sequences: int

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()


class MotifComparison(NamedTuple):
    """What is told of samples and a reference by their motifs.

    `contents`, `spacings` and `placements` are each in the order of their p-values. `silent`:
    motifs too short or too vague for any hit at the threshold; they are left out everywhere.
    `agreement` is None where the reference is of one unit. `sequences`, `units` and `given`: how
    many were read, of how many units, and how many there were, of (samples, reference).
    """

    contents: tuple[MotifContent, ...]
    agreement: Agreement | None
    spacings: tuple[Spacing, ...]
    placements: tuple[Placement, ...]
    silent: tuple[str, ...]
    sequences: tuple[int, int]
    units: tuple[int, int]
    given: tuple[int, int]
    seed: int

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "sequences": list(self.sequences),
            "units": list(self.units),
            "sequences_given": list(self.given),
            "seed": self.seed,
            "agreement": self.agreement and self.agreement.summary(),
            "contents": [each.summary() for each in self.contents],
            "spacings": [each.summary() for each in self.spacings],
            "placements": [each.summary() for each in self.placements],
            "silent": list(self.silent),
        }


def compare_motifs(samples: Hits, reference: Hits, *, seed: int = 0) -> MotifComparison:
    """Content, spacing and placement of the motifs of a scanner in two sets.

    Args:
        seed: of the random halves, and of the permutations in `motif_arrangement`.

    Raises:
        UserError: the sets were scanned for different motifs.
    """
    if samples.motifs != reference.motifs:
        raise UserError(
            f"{len(samples.motifs)} motifs of the samples and {len(reference.motifs)} of the "
            "reference are not the same; look for the same ones in both."
        )
    return MotifComparison(
        tuple(sorted(_contents(samples, reference), key=lambda each: each.p_value)),
        _agreement(samples, reference, seed),
        spacings(samples, reference, seed=seed),
        placements(samples, reference, seed=seed),
        tuple(
            name for (name, _), mute in zip(samples.motifs, samples.is_silent, strict=True) if mute
        ),
        (len(samples.lengths), len(reference.lengths)),
        (len(np.unique(samples.units)), len(np.unique(reference.units))),
        (samples.given, reference.given),
        seed,
    )


def _contents(samples: Hits, reference: Hits) -> list[MotifContent]:
    """Of every motif that may have hits."""
    a, b = _totals(samples), _totals(reference)
    p_values = _welch(a, b)
    log2_ratio = (_log_rates(a.hits, a.letters) - _log_rates(b.hits, b.letters)) / math.log(2)
    error = np.sqrt(
        sum(np.maximum(each.variance, each.hits + 0.5) / (each.hits + 0.5) ** 2 for each in (a, b))
    )
    half = student_975(min(a.n, b.n) - 1) * error / math.log(2)
    audible = np.flatnonzero(~samples.is_silent).tolist()
    q_values = benjamini_hochberg(p_values[audible].tolist())
    return [
        MotifContent(
            name=samples.motifs[i][0],
            alternate=samples.motifs[i][1],
            samples=a.rate(i),
            reference=b.rate(i),
            log2_ratio=float(log2_ratio[i]),
            log2_ratio_95=(float(log2_ratio[i] - half[i]), float(log2_ratio[i] + half[i])),
            p_value=float(p_values[i]),
            q_value=q_value,
        )
        for i, q_value in zip(audible, q_values, strict=True)
    ]


class _Totals(NamedTuple):
    """Of a set of n units: hits of each motif, in how many sequences, and their variance."""

    n: int
    letters: int
    hits: Int[ndarray, " m"]
    sequences_with_hit: Int[ndarray, " m"]
    variance: Float[ndarray, " m"]

    def rate(self, motif: int) -> Rate:
        """With an interval on the scale of logarithms, or the exact one of no hit at all."""
        hits, per = int(self.hits[motif]), _PER / self.letters
        interval = (0.0, -math.log(0.025) * per)
        if hits:
            error = math.sqrt(max(self.variance[motif], hits)) / hits
            factor = math.exp(student_975(self.n - 1) * error)
            interval = (hits * per / factor, hits * per * factor)
        return Rate(hits, int(self.sequences_with_hit[motif]), hits * per, interval)


def _totals(hits: Hits) -> _Totals:
    counts, letters = hits.counts, hits.letters
    units = hits.units.tolist()
    error = ratio_standard_error(counts.astype(np.float64), letters.astype(np.float64), units)
    if error is None:
        raise UserError(
            f"{len(letters)} sequences of one record cannot tell how much rates of motifs vary; "
            "give sequences of two records or more in each set."
        )
    total = int(letters.sum())
    return _Totals(
        len(set(units)), total, counts.sum(0), (counts > 0).sum(0), (error * total) ** 2
    )


def _welch(a: _Totals, b: _Totals) -> Float[ndarray, " m"]:
    """Two-sided p-values of Welch's t test (1947) of equal rates."""
    pooled = (a.hits + b.hits) / (a.letters + b.letters)
    some = pooled > 0  # of a motif without a hit nothing is known: p = 1
    # Hits come at least as irregularly as if each came alone.
    of_a, of_b = (
        np.maximum(each.variance, pooled * each.letters)[some] / each.letters**2 for each in (a, b)
    )
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (a.n - 1) + of_b**2 / (b.n - 1))
    difference = (a.hits / a.letters - b.hits / b.letters)[some]
    p_values = np.ones(len(some))
    p_values[some] = student_p_value(difference / np.sqrt(of_a + of_b), freedom)
    return p_values


def _log_rates(hits: Int[ndarray, " m"], letters: int) -> Float[ndarray, " m"]:
    return np.log((hits + 0.5) / letters)


def _agreement(samples: Hits, reference: Hits, seed: int) -> Agreement | None:
    """Means over random choices of sequences."""
    audible = np.flatnonzero(~samples.is_silent)
    names, unit = np.unique(reference.units, return_inverse=True)
    if len(names) < 2 or len(audible) < 2:
        return None
    of_samples, of_reference = samples.counts[:, audible], reference.counts[:, audible]
    random = np.random.default_rng(seed)
    found, sizes = [], []
    for _ in range(_SPLITS):
        in_half = (random.permutation(len(names)) < len(names) / 2)[unit]
        parts = np.arange(len(of_samples)), np.flatnonzero(in_half), np.flatnonzero(~in_half)
        size = min(map(len, parts))
        drawn, half, other = (random.permutation(part)[:size] for part in parts)
        here, same, there = (
            _log_rates(counts[rows].sum(0), int(letters[rows].sum()))
            for counts, letters, rows in (
                (of_samples, samples.letters, drawn),
                (of_reference, reference.letters, half),
                (of_reference, reference.letters, other),
            )
        )
        found.append([f(same, rates) for rates in (here, there) for f in (pearson, spearman)])
        sizes.append(size)
    return Agreement(*np.mean(found, axis=0).tolist(), sequences=round(float(np.mean(sizes))))
