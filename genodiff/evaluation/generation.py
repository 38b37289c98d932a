"""Statistics of generated sequences beside those of real ones: k-mer spectra and GC content.

A *spectrum* is the distribution of the 4^k words of k letters over all positions of a set of sequences. Two spectra are
compared by the Jensen-Shannon divergence in bits (Lin 1991), between 0 (equal) and 1 (no word in common). It is never
0 between finite samples, so it is read beside its `noise_floor`. Words lie within one sequence and hold letters
A, C, G, T only; lower case is read as upper case.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import ratio_standard_error

LETTERS = "ACGT"
_LARGEST_K = 12

Sequences = Sequence[str] | Sequence[Integer[ndarray, " _"]]


class Spectrum(NamedTuple):
    """Words of `k` letters: `words` (w,) in alphabetical order, `counts` (n, w) in each sequence.

    With `both_strands` a word and its reverse complement are one, under the name that comes first.
    """

    k: int
    both_strands: bool
    words: tuple[str, ...]
    counts: Int[ndarray, "n w"]

    @property
    def frequencies(self) -> Float[ndarray, " w"]:
        """Share of each word, summing to 1."""
        total = self.counts.sum(0)
        return total / total.sum()


class Divergence(NamedTuple):
    """Jensen-Shannon divergence in bits, in [0, 1], with its 95 % interval."""

    bits: float
    confidence_95: tuple[float, float]


class GcContent(NamedTuple):
    """Share of G and C among A, C, G, T over all sequences; its standard error (None for a single sequence); and each
    sequence's own share (n,), NaN where it has no letter."""

    mean: float
    standard_error: float | None
    each: Float[ndarray, " n"]


def kmer_spectrum(
    sequences: Sequences,
    k: int,
    *,
    data_ids: Sequence[int] | None = None,
    both_strands: bool = False,
) -> Spectrum:
    """Counts the words of `k` letters in each sequence.

    Args:
        sequences: strings, or arrays of ids.
        k: 1 to 12.
        data_ids: ids of A, C, G, T in this order, needed for arrays of ids.
        both_strands: count a word and its reverse complement as one.

    Raises:
        UserError: k out of range, or no word of k letters in any sequence.
    """
    if not 1 <= k <= _LARGEST_K:
        raise UserError(f"k={k} is out of range; use 1 to {_LARGEST_K}.")
    codes = [_codes(sequence, data_ids) for sequence in sequences]
    counts = np.array([np.bincount(_words(c, k), minlength=4**k) for c in codes], int)
    if not counts.any():
        raise UserError(
            f"{len(codes)} sequences hold no {k} letters A, C, G, T in a row; give longer "
            "sequences, or a smaller k."
        )
    words = tuple(map("".join, product(LETTERS, repeat=k)))
    if not both_strands:
        return Spectrum(k, False, words, counts)
    partner = _reverse_complements(k)
    first = np.flatnonzero(np.arange(4**k) <= partner)
    merged = counts[:, first] + np.where(partner[first] == first, 0, counts[:, partner[first]])
    return Spectrum(k, True, tuple(words[i] for i in first), merged)


def divergence(
    sample: Spectrum, reference: Spectrum, *, resamples: int = 200, seed: int = 0
) -> Divergence:
    """Jensen-Shannon divergence between two spectra, with an interval over the sequences of both.

    The interval is the basic bootstrap's, 2 d - d*, over whole sequences (Davison & Hinkley 1997, section 5.2): a resample
    is noisier than the sample by as much as the sample is noisier than its law, and reflecting takes that bias out.
    Where the two laws are equal it reaches down to about 0.

    Raises:
        UserError: the spectra count different words.
    """
    _check_same_words(sample, reference)
    bits = _jensen_shannon(sample.frequencies, reference.frequencies)
    random = np.random.default_rng(seed)
    resampled = [
        _jensen_shannon(_resampled(sample, random), _resampled(reference, random))
        for _ in range(resamples)
    ]
    low, high = 2 * bits - np.quantile(resampled, [0.975, 0.025])
    return Divergence(float(bits), (float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))))


def noise_floor(
    reference: Spectrum, *, size: int | None = None, splits: int = 50, seed: int = 0
) -> Divergence:
    """Divergence of the reference from itself: between `size` of its sequences and the others.

    What a perfect generator would score with `size` sequences against the rest of the reference. The figure is the mean
    over random splits and the interval holds 95 % of them.

    Args:
        size: how many sequences to set apart; half if None. The number of generated sequences makes it
            comparable with their divergence.

    Raises:
        UserError: fewer than two sequences, or `size` leaves nothing on one side.
    """
    n = len(reference.counts)
    size = n // 2 if size is None else size
    if not 0 < size < n:
        raise UserError(
            f"size={size} of {n} reference sequences leaves nothing to compare with; use 1 to {n - 1}."
        )
    random = np.random.default_rng(seed)
    values = []
    for _ in range(splits):
        order = random.permutation(n)
        part, rest = reference.counts[order[:size]].sum(0), reference.counts[order[size:]].sum(0)
        values.append(_jensen_shannon(part / part.sum(), rest / rest.sum()))
    low, high = np.quantile(values, [0.025, 0.975])
    return Divergence(float(np.mean(values)), (float(low), float(high)))
