"""Spectra of words: how often each word of k letters A, C, G, T stands in a set of sequences.

A word lies within one sequence, and lower case is read as upper case. Two spectra are compared by
the Jensen-Shannon divergence in bits (Lin 1991), from 0 (equal) to 1 (no word in common). Between
finite samples it is never 0, even where the laws are equal: read it beside `noise_floors`, or take
its debiased value.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.resampling import RESAMPLES, deviations, independent, unit_weights
from genodiff.evaluation.uncertainty import student_975
from genodiff.evaluation.words import Block, Sequences, blocks, reverse_complements, words

LARGEST_K = 8
"""Every word is counted under every resample's weights: 4^8 words under 200 are 50 MiB."""

_COMPLEMENT = (3, 2, 1, 0)

# Of a block of sequences: a weight for each sequence in each of r sums.
_Weights = Callable[[Block], Float32[ndarray, "n r"]]


class Spectrum(NamedTuple):
    """How often each of the w `words`, in alphabetical order, stands in a set of sequences.

    `counts` (w,) are of the set, `resampled` (r, w) of its resamples, whose units are `n_units`.
    With `both_strands` a word and its reverse complement are one, under the name that comes first.
    """

    words: tuple[str, ...]
    counts: Float[ndarray, " w"]
    resampled: Float32[ndarray, "r w"]
    n_units: int
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
    `confidence_95` are estimates for the two laws behind them, and may exclude `bits`. `p_value`:
    how probable spectra at least as different would be if both laws were equal.
    """

    bits: float
    debiased: float
    confidence_95: tuple[float, float]
    p_value: float

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**self._asdict(), "confidence_95": list(self.confidence_95)}


class NoiseFloor(NamedTuple):
    """Divergence in bits of two parts of one set: mean over random splits, and 95 % of them."""

    bits: float
    range_95: tuple[float, float]

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**self._asdict(), "range_95": list(self.range_95)}


def kmer_spectra(
    sequences: Sequences,
    ks: Iterable[int] = range(1, LARGEST_K + 1),
    *,
    data_ids: Sequence[int] | None = None,
    both_strands: bool = False,
    units: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[int, Spectrum]:
    """Counts the words of `k` letters for every k of `ks`, in one pass over the sequences.

    Args:
        sequences: strings, or arrays of ids.
        ks: letters in a word, 1 to 8.
        data_ids: ids of A, C, G, T in this order; needed for arrays of ids.
        both_strands: count a word and its reverse complement as one.
        units: what repeats independently (the record that a sequence was cut from), one number a
            sequence; None: each sequence.
        resamples: of whole units; 0 if no interval is wanted.
        seed: of the resamples.

    Raises:
        UserError: k out of range, or no word of k letters in any sequence.
    """
    found: set[int] = set()

    def weights(block: Block) -> Float32[ndarray, "n r"]:
        found.update(block.units.tolist())
        resampled = unit_weights(block.units, resamples, seed)
        return np.concatenate([np.ones((len(resampled), 1), np.float32), resampled], 1)

    counts = _weighted_counts(blocks(sequences, data_ids=data_ids, units=units), ks, weights)
    spectra = {}
    for k, sums in counts.items():
        sums = _joined_strands(sums, k) if both_strands else sums
        if not sums[:, 0].any():
            raise UserError(
                f"{len(found)} sequences hold no {k} letters A, C, G, T in a row; give longer "
                "sequences, or a smaller k."
            )
        spectra[k] = Spectrum(
            word_names(k, both_strands=both_strands),
            sums[:, 0].copy(),
            np.ascontiguousarray(sums[:, 1:].T, np.float32),
            len(found),
            both_strands,
        )
    return spectra


def kmer_spectrum(sequences: Sequences, k: int, **keywords: Any) -> Spectrum:
    """The words of one length: `kmer_spectra` for a single k, with the same keywords."""
    return kmer_spectra(sequences, (k,), **keywords)[k]


def divergence(sample: Spectrum, reference: Spectrum) -> Divergence:
    """Divergence of two spectra, with a 95 % interval over the units of both.

    Near zero the divergence is a multiple of the squared distance sum (p - q)^2 / m of the two
    spectra, m = (p + q) / 2, to which noise adds what the resamples' deviations from p and q have
    of it on average. `debiased` is the share of the divergence that is left when this is taken off
    the squared distance: without bias between equal laws, however rare the words are.

    The variance v of the estimate is that of noise alone where the laws are equal, and grows in
    proportion to their divergence d, at the rate c at which the divergence's linear part, in p and
    q, varies among the resamples. The limits are those d that are z sqrt(v + c d) from `debiased`
    (as Wilson's for a share), z being Student's. Where words are many times more than units, v is
    overestimated: interval and p-value then err on the side of no difference.

    Raises:
        UserError: the spectra are of different words, or of fewer than two units.
    """
    if sample.words != reference.words:
        raise UserError(
            f"spectra of {len(sample.words)} (k={sample.k}) and {len(reference.words)} words "
            f"(k={reference.k}) cannot be compared; use the same k and both_strands."
        )
    p, q = sample.frequencies, reference.frequencies
    bits = jensen_shannon(p, q)
    held = p + q > 0
    p, q = p[held], q[held]
    m = (p + q) / 2
    from_p = deviations(_shares(sample.resampled)[:, held], p, sample.n_units)
    from_q = deviations(_shares(reference.resampled)[:, held], q, reference.n_units)
    from_q = independent(from_q)
    distance = ((p - q) ** 2 / m).sum()
    noise = ((from_p - from_q) ** 2 / m).sum(1)
    scale = bits / float(distance) if distance else 1 / (8 * math.log(2))
    middle = max(bits - scale * float(noise.mean()), 0.0)
    linear = from_p @ _half_log_ratio(p, m) + from_q @ _half_log_ratio(q, m)
    growth = float(linear.var()) / bits if bits else 0.0
    z = student_975(min(sample.n_units, reference.n_units) - 1)
    centre = middle + z**2 * growth / 2
    half = z * math.sqrt(scale**2 * noise.var() + growth * middle + (z * growth / 2) ** 2)
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return Divergence(bits, middle, (low, high), _tail(noise, float(distance)))


def noise_floors(
    reference: Sequences,
    ks: Iterable[int] = range(1, LARGEST_K + 1),
    *,
    size: int | None = None,
    splits: int = 50,
    data_ids: Sequence[int] | None = None,
    both_strands: bool = False,
    seed: int = 0,
) -> dict[int, NoiseFloor]:
    """Divergence of a set from itself: of `size` of its sequences from all the others.

    What a perfect generator would score.

    Args:
        reference: at least two sequences; they are gone through twice.
        ks: letters in a word, 1 to 8.
        size: sequences set apart, half of them if None. The number of generated sequences makes
            the floor comparable with their divergence.
        splits: how many random splits.
        data_ids, both_strands: as of `kmer_spectra`.
        seed: of the splits.

    Raises:
        UserError: k out of range; `size`, or the sequences that hold a word, leave nothing on one
            side.
    """
    n = sum(1 for _ in reference)
    size = n // 2 if size is None else size
    if not 0 < size < n:
        raise UserError(
            f"size={size} of {n} reference sequences leaves nothing on one side; give a "
            "smaller size, or more reference sequences."
        )
    random = np.random.default_rng(seed)
    inside = np.zeros((n, splits), np.float32)
    for column in inside.T:
        column[random.permutation(n)[:size]] = 1

    def weights(block: Block) -> Float32[ndarray, "n r"]:
        part = inside[block.units]
        return np.concatenate([part, 1 - part], 1)

    floors = {}
    for k, sums in _weighted_counts(blocks(reference, data_ids=data_ids), ks, weights).items():
        shares = _shares((_joined_strands(sums, k) if both_strands else sums).T)
        if not np.isfinite(shares).all():
            raise UserError(
                f"{n} reference sequences hold too few {k} letters A, C, G, T in a row to be "
                f"split at size={size}; give longer or more sequences, or a smaller k."
            )
        values = [
            jensen_shannon(p, q) for p, q in zip(shares[:splits], shares[splits:], strict=True)
        ]
        low, high = np.quantile(values, [0.025, 0.975])
        floors[k] = NoiseFloor(float(np.mean(values)), (float(low), float(high)))
    return floors


def word_names(k: int, *, both_strands: bool = False) -> tuple[str, ...]:
    """The words of k letters in alphabetical order; with `both_strands` those that come before
    their reverse complement, or are it."""
    names = tuple(map("".join, product("ACGT", repeat=k)))
    if not both_strands:
        return names
    return tuple(names[i] for i in _first_of_strands(k))


def jensen_shannon(p: Float[ndarray, " w"], q: Float[ndarray, " w"]) -> float:
    """Divergence of two distributions, in bits."""
    middle = (p + q) / 2
    return max((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0.0)


def _weighted_counts(
    sequences: Iterator[Block], ks: Iterable[int], weights: _Weights
) -> dict[int, Float[ndarray, "w r"]]:
    """Sums of the weights of the sequences over the places of every word, for every k.

    Only the longest words are counted everywhere: by a letter less, a word is what the longer
    ones end in, but where none reaches that far back, after an N or at a sequence's start.
    """
    lengths = sorted(set(ks))
    for k in lengths:
        if not 1 <= k <= LARGEST_K:
            raise UserError(f"k={k} is out of range; use 1 to {LARGEST_K}.")
    longest = max(lengths, default=0)
    sums: dict[int, ndarray] = {}
    for block in sequences:
        weight = torch.from_numpy(weights(block))
        if not sums:
            sums = {k: np.zeros((4**k, weight.shape[1])) for k in range(1, longest + 1)}
        found = list(words(block.codes, 4, longest))
        for k, (ends, word) in enumerate(found, 1):
            if k < longest:
                is_longest = ~found[k][0][ends]
                ends, word = ends.copy(), word[is_longest]
                ends &= ~found[k][0]
            _add_weights(sums[k], word, block.owner[ends], weight)
    if not sums:
        sums = {k: np.zeros((4**k, 1)) for k in range(1, longest + 1)}
    for k in range(longest - 1, 0, -1):
        sums[k] += sums[k + 1].reshape(4, 4**k, -1).sum(0)
    return {k: sums[k] for k in lengths}


def _add_weights(
    sums: Float[ndarray, "w r"],
    word: Int32[ndarray, " m"],
    owner: Int[ndarray, " m"],
    weights: torch.Tensor,
) -> None:
    """Adds the weights of the owner of each place to the sums of the word there."""
    order = np.argsort(word, kind="stable")
    begins = np.searchsorted(word[order], np.arange(len(sums), dtype=np.int32))
    sums += torch.nn.functional.embedding_bag(
        torch.from_numpy(owner[order]), weights, torch.from_numpy(begins), mode="sum"
    ).numpy()


def _joined_strands(sums: Float[ndarray, "w r"], k: int) -> Float[ndarray, "v r"]:
    reverse = reverse_complements(k, _COMPLEMENT)
    first = _first_of_strands(k)
    is_palindrome = (reverse[first] == first)[:, None]
    return sums[first] + np.where(is_palindrome, 0, sums[reverse[first]])


def _first_of_strands(k: int) -> Int[ndarray, " v"]:
    return np.flatnonzero(np.arange(4**k) <= reverse_complements(k, _COMPLEMENT))


def _tail(noise: Float[ndarray, " r"], distance: float) -> float:
    """How probable a squared distance is at least as large as this: that of noise is nearly a
    multiple of a chi-squared variable, the one with its mean and variance (Satterthwaite 1946)."""
    mean, variance = float(noise.mean()), float(noise.var())
    if not variance:
        return float(distance <= mean)
    half = torch.tensor([mean**2 / variance, mean * distance / variance], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _shares(counts: Float[ndarray, "*r w"]) -> Float[ndarray, "*r w"]:
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(-1, keepdims=True)


def _half_log_ratio(p: Float[ndarray, " w"], m: Float[ndarray, " w"]) -> Float[ndarray, " w"]:
    """The derivative of the divergence in p; 0 where p is, because its resamples are 0 there."""
    return np.log2(p / m, out=np.zeros_like(p), where=p > 0) / 2


def _relative_entropy(p: Float[ndarray, " w"], q: Float[ndarray, " w"]) -> float:
    """KL(p || q) in bits; q > 0 where p > 0."""
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())
