"""Statistics of generated sequences beside those of real ones: k-mer spectra and GC content.

A *spectrum* is the distribution of the words of k letters A, C, G, T over all positions of a set
of sequences; a word lies within one sequence, and lower case is read as upper case. Two spectra
are compared by the Jensen-Shannon divergence in bits (Lin 1991), from 0 (equal) to 1 (no word in
common). Between finite samples it is never 0, even where the laws are equal: read it beside the
`noise_floor`, or take its debiased value.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int8, Int32, Integer
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import ratio_standard_error
from genodiff.evaluation.words import letter_codes, reverse_complements, words

Sequences = Sequence[str] | Sequence[Integer[ndarray, " _"]]

_LETTERS = "ACGT"
_COMPLEMENT = (3, 2, 1, 0)
_LARGEST_K = 8  # counts are kept sequence by sequence: 4^8 of them are 256 KiB


class Spectrum(NamedTuple):
    """Counts (n, w) of the w `words`, in alphabetical order, in each of n sequences.

    With `both_strands` a word and its reverse complement are one, under the name that comes first.
    """

    words: tuple[str, ...]
    counts: Int32[ndarray, "n w"]
    both_strands: bool

    @property
    def k(self) -> int:
        """Letters in a word."""
        return len(self.words[0])

    @property
    def frequencies(self) -> Float[ndarray, " w"]:
        """Share of each word among all words of all sequences."""
        return _shares(self.counts)


class Divergence(NamedTuple):
    """Jensen-Shannon divergence in bits, in [0, 1].

    `bits` is of the two samples as they are, the figure others publish; `debiased` and
    `confidence_95` are estimates for the two laws behind them, and may exclude `bits`.
    """

    bits: float
    debiased: float
    confidence_95: tuple[float, float]


class NoiseFloor(NamedTuple):
    """Divergence in bits of two parts of one set: mean over random splits, and 95 % of them."""

    bits: float
    range_95: tuple[float, float]


class GcContent(NamedTuple):
    """Share of G and C among the letters of all sequences, with its standard error over sequences.

    `standard_error` is None for fewer than two sequences; `each` (n,) is every sequence's own
    share, NaN where it holds no letter.
    """

    share: float
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
        k: letters in a word, 1 to 8.
        data_ids: ids of A, C, G, T in this order; needed for arrays of ids.
        both_strands: count a word and its reverse complement as one.

    Raises:
        UserError: k out of range, or no word of k letters in any sequence.
    """
    if not 1 <= k <= _LARGEST_K:
        raise UserError(f"k={k} is out of range; use 1 to {_LARGEST_K}.")
    counts = np.zeros((len(sequences), 4**k), np.int32)
    for row, sequence in zip(counts, sequences, strict=True):
        *_, (_, found) = words(_codes(sequence, data_ids), 4, k)
        row += np.bincount(found, minlength=4**k).astype(np.int32)
    if not counts.any():
        raise UserError(
            f"{len(sequences)} sequences hold no {k} letters A, C, G, T in a row; give longer "
            "sequences, or a smaller k."
        )
    names = tuple(map("".join, product(_LETTERS, repeat=k)))
    if not both_strands:
        return Spectrum(names, counts, both_strands)
    reverse = reverse_complements(k, _COMPLEMENT)
    first = np.flatnonzero(np.arange(4**k) <= reverse)
    is_palindrome = reverse[first] == first
    counts = counts[:, first] + np.where(is_palindrome, 0, counts[:, reverse[first]])
    return Spectrum(tuple(names[i] for i in first), counts, both_strands)


def divergence(
    sample: Spectrum, reference: Spectrum, *, resamples: int = 200, seed: int = 0
) -> Divergence:
    """Divergence of two spectra, with a 95 % interval over whole sequences of both.

    By the basic bootstrap, 2 d - d* (Davison & Hinkley 1997, section 5.2): a resample is noisier
    than the sample by as much as the sample is noisier than its law, and the reflection takes this
    upward bias out.

    Raises:
        UserError: the spectra are of different words.
    """
    if sample.words != reference.words:
        raise UserError(
            f"spectra of {len(sample.words)} (k={sample.k}) and {len(reference.words)} words "
            f"(k={reference.k}) cannot be compared; use the same k and both_strands."
        )
    bits = _jensen_shannon(sample.frequencies, reference.frequencies)
    random = np.random.default_rng(seed)
    pairs = zip(
        _resampled(sample, resamples, random),
        _resampled(reference, resamples, random),
        strict=True,
    )
    reflected = 2 * bits - np.array([_jensen_shannon(p, q) for p, q in pairs])
    low, middle, high = np.clip(
        [np.quantile(reflected, 0.025), reflected.mean(), np.quantile(reflected, 0.975)], 0, 1
    )
    return Divergence(bits, float(middle), (float(low), float(high)))


def noise_floor(
    reference: Spectrum, *, size: int | None = None, splits: int = 50, seed: int = 0
) -> NoiseFloor:
    """Divergence of the reference from itself: of `size` of its sequences from all the others.

    What a perfect generator would score.

    Args:
        reference: at least two sequences.
        size: sequences set apart, half of them if None. The number of generated sequences makes
            the floor comparable with their divergence.
        splits: how many random splits.
        seed: of the splits.

    Raises:
        UserError: `size` leaves nothing on one side.
    """
    counts = reference.counts[reference.counts.any(1)]
    size = len(counts) // 2 if size is None else size
    if not 0 < size < len(counts):
        raise UserError(
            f"size={size} of {len(counts)} reference sequences leaves nothing on one side; give a "
            "smaller size, or more reference sequences."
        )
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(counts)) for _ in range(splits)]
    values = [
        _jensen_shannon(_shares(counts[order[:size]]), _shares(counts[order[size:]]))
        for order in orders
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return NoiseFloor(float(np.mean(values)), (float(low), float(high)))


def gc_content(sequences: Sequences, *, data_ids: Sequence[int] | None = None) -> GcContent:
    """Share of G and C among A, C, G, T.

    Args:
        sequences: strings, or arrays of ids.
        data_ids: ids of A, C, G, T in this order; needed for arrays of ids.

    Raises:
        UserError: no letter in any sequence.
    """
    counts = kmer_spectrum(sequences, 1, data_ids=data_ids).counts.astype(np.float64)
    gc, letters = counts[:, 1] + counts[:, 2], counts.sum(1)
    error = ratio_standard_error(gc, letters)
    each = np.divide(gc, letters, out=np.full(len(gc), np.nan), where=letters > 0)
    share = float(gc.sum() / letters.sum())
    return GcContent(share, None if error is None else float(error), each)


def _codes(
    sequence: str | Integer[ndarray, " l"], data_ids: Sequence[int] | None
) -> Int8[ndarray, " l"]:
    if isinstance(sequence, str):
        letters = np.frombuffer(sequence.upper().encode("ascii", "replace"), np.uint8)
        return letter_codes(letters, _LETTERS.encode())
    if data_ids is None or len(data_ids) != 4:
        raise UserError(
            f"data_ids={data_ids} must be the ids of A, C, G, T for sequences given as ids; "
            "give e.g. tokenizer.data_ids[:4]."
        )
    return letter_codes(sequence, data_ids)


def _shares(counts: Int[ndarray, "n w"]) -> Float[ndarray, " w"]:
    total = counts.sum(0)
    return total / total.sum()


def _resampled(
    spectrum: Spectrum, resamples: int, random: np.random.Generator
) -> Float[ndarray, "r w"]:
    """Shares of as many sequences, drawn with replacement among those that hold a word."""
    counts = spectrum.counts[spectrum.counts.any(1)].astype(np.float64)
    n = len(counts)
    times = random.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    totals = times @ counts
    return totals / totals.sum(1, keepdims=True)


def _jensen_shannon(p: Float[ndarray, " w"], q: Float[ndarray, " w"]) -> float:
    middle = (p + q) / 2
    return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def _relative_entropy(p: Float[ndarray, " w"], q: Float[ndarray, " w"]) -> float:
    """KL(p || q) in bits; q > 0 where p > 0."""
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())
