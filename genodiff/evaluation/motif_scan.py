"""Where motifs occur in sequences, on both strands.

The score of w bases is the sum over places i of s(i, b) = log2 p'(i, b) / q(b), rounded to a
hundredth of a bit, where q is the background and p' the motif's probabilities with a hundredth of
q mixed in. Of rounded scores the distribution under independent bases of law q is known exactly,
by convolving one place after the other (Staden 1989, CABIOS 5:89; as FIMO, Grant et al. 2011,
Bioinformatics 27:1017, and MOODS, Korhonen et al. 2009, Bioinformatics 25:3181, do). A *hit* is
where the score reaches the least threshold that such bases reach with a probability of at most
`p_value`.

A *site* is w bases, whichever strand they are read from: it counts once, on the strand that scores
higher (the forward one of equals), so that palindromes do not count twice. Sites may overlap. One
with an unknown base is never a hit. q is the same on both strands, and so are the thresholds.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.subsample import subsample
from genodiff.evaluation.words import codes_of

_STEPS_PER_BIT = 100
_PSEUDOCOUNT = 0.01
_MOTIFS_AT_ONCE = 64
_BASES_AT_ONCE = 1 << 14
_BASES_TOGETHER = 1 << 20  # of the sequences that are laid end to end


@runtime_checkable
class Matrix(Protocol):
    """A motif: what it is called, and the probability of A, C, G, T at each of its places."""

    @property
    def name(self) -> str: ...

    @property
    def alternate(self) -> str: ...

    @property
    def probabilities(self) -> Float[ndarray, "w 4"]: ...


class Hits(NamedTuple):
    """Hits of m motifs in n sequences, by sequence, then by first base.

    `motifs`: name and alternate name of each; `widths` (m,) in bases; `is_silent` (m,): no bases
    are improbable enough to be a hit. `lengths` and `letters` (n,): bases of each sequence, with
    and without unknown ones; `units` (n,): the number of its unit. Of each hit (h,): the numbers
    of its `sequence` and `motif`, its first base `start` (0-based, on the forward strand) and
    whether it is on the reverse one. `given`: sequences there were, of which the n are a random
    sub-sample.
    """

    motifs: tuple[tuple[str, str], ...]
    widths: Int[ndarray, " m"]
    is_silent: Bool[ndarray, " m"]
    lengths: Int[ndarray, " n"]
    letters: Int[ndarray, " n"]
    units: Int[ndarray, " n"]
    sequence: Int[ndarray, " h"]
    motif: Int[ndarray, " h"]
    start: Int[ndarray, " h"]
    is_reverse: Bool[ndarray, " h"]
    given: int

    @property
    def counts(self) -> Int[ndarray, "n m"]:
        """Hits of each motif in each sequence."""
        n, m = len(self.lengths), len(self.motifs)
        return np.bincount(self.sequence * m + self.motif, minlength=n * m).reshape(n, m)


def background_of(sequences: Iterable[str]) -> Float[ndarray, " 4"]:
    """The shares of A, C, G, T, both strands as one.

    Raises:
        UserError: the sequences lack A and T, or C and G.
    """
    counts = np.zeros(4)
    for sequence in sequences:
        codes = codes_of(sequence)
        counts += np.bincount(codes[codes >= 0], minlength=4)
    shares = (counts + counts[::-1]) / max(2 * counts.sum(), 1)
    if not shares.all():
        raise UserError(
            f"A, C, G and T are {', '.join(f'{share:g}' for share in shares)} of the letters on "
            "both strands, and motifs are told from a background that has all four; give longer "
            "sequences."
        )
    return shares


def scores_of(
    probabilities: Float[ndarray, "w 4"], background: Float[ndarray, " 4"]
) -> Int[ndarray, "w 4"]:
    """s(i, b) in hundredths of a bit."""
    mixed = (probabilities + _PSEUDOCOUNT * background) / (1 + _PSEUDOCOUNT)
    return np.rint(_STEPS_PER_BIT * np.log2(mixed / background)).astype(np.int64)


def tail(
    scores: Int[ndarray, "w 4"], background: Float[ndarray, " 4"]
) -> tuple[int, Float[ndarray, " t"]]:
    """The least score, and the probabilities of reaching that, one more, ... up to the greatest,
    by independent bases of the law `background`."""
    law = np.ones(1)
    for row in scores:
        longer = np.zeros(len(law) + int(np.ptp(row)))
        for score, share in zip(row - row.min(), background, strict=True):
            longer[score : score + len(law)] += share * law
        law = longer
    return int(scores.min(1).sum()), np.cumsum(law[::-1])[::-1]


def threshold(
    scores: Int[ndarray, "w 4"], background: Float[ndarray, " 4"], p_value: float
) -> int | None:
    """The least score that is reached with a probability of at most `p_value`; None if even the
    greatest is more probable."""
    least, reached = tail(scores, background)
    rare = np.flatnonzero(reached <= p_value * (1 + 1e-9))  # sums of shares are rounded
    return least + int(rare[0]) if len(rare) else None


@final
class MotifScanner:
    """Finds the hits of `motifs`.

    Args:
        motifs: one or more.
        background: q, the same on both strands (`background_of` the reference).
        p_value: of a hit at one site on one strand.

    Raises:
        UserError: no motif, or `p_value` not between 0 and 1.
    """

    def __init__(
        self,
        motifs: Sequence[Matrix],
        background: Float[ndarray, " 4"],
        *,
        p_value: float = 1e-4,
    ):
        if not 0 < p_value < 1:
            raise UserError(f"p_value={p_value} is a probability; give one between 0 and 1.")
        if not motifs:
            raise UserError("no motif is given; give one or more.")
        scores = [scores_of(motif.probabilities, background) for motif in motifs]
        thresholds = [threshold(each, background, p_value) for each in scores]
        self.p_value = p_value
        self.background = background
        self.motifs = tuple((motif.name, motif.alternate) for motif in motifs)
        self.widths = np.array([len(each) for each in scores])
        self.is_silent = np.array([each is None for each in thresholds])
        audible = np.flatnonzero(~self.is_silent)
        by_width = audible[np.argsort(self.widths[audible], kind="stable")]
        self._batches = [
            _batch(numbers, scores, thresholds)
            for numbers in np.split(
                by_width, range(_MOTIFS_AT_ONCE, len(by_width), _MOTIFS_AT_ONCE)
            )
            if len(numbers)
        ]

    def hits(
        self,
        sequences: Iterable[str],
        *,
        units: Iterable[int] | None = None,
        limit: int = 4000,
        seed: int = 0,
    ) -> Hits:
        """The hits in sequences of A, C, G, T and N (in upper case) of any lengths.

        Args:
            units: what repeats independently (the record that a sequence was cut from), one number
                a sequence; None: each sequence.
            limit: of more sequences than so many, a random sub-sample is read.
            seed: of the sub-sample.

        Raises:
            UserError: no sequence.
            ValueError: not one unit a sequence.
        """
        numbered = zip(sequences, count() if units is None else units, strict=units is not None)
        drawn, given = subsample(numbered, limit, seed)
        if not drawn:
            raise UserError("no sequence to look for motifs in; give one or more.")
        kept = [sequence for sequence, _ in drawn]
        found = [np.zeros((0, 4), np.int64)]
        for first, codes, starts in _end_to_end(kept):
            places = np.concatenate([_hits_in(codes, batch) for batch in self._batches] or found)
            motif, place, is_reverse = places.T[:3]
            owner = np.searchsorted(starts, place, side="right") - 1
            found.append(np.stack([owner + first, motif, place - starts[owner], is_reverse], 1))
        table = np.concatenate(found)
        sequence, motif, start, is_reverse = table[np.lexsort(table.T[[1, 2, 0]])].T
        return Hits(
            self.motifs,
            self.widths,
            self.is_silent,
            np.array([len(each) for each in kept]),
            np.array([int((codes_of(each) >= 0).sum()) for each in kept]),
            np.array([unit for _, unit in drawn]),
            sequence,
            motif,
            start,
            is_reverse.astype(bool),
            given,
        )


class _Batch(NamedTuple):
    """Some motifs, the widest last; `weights` (2 m, 4 w): of each on the forward strand, then on
    the reverse one, for each base at each place. Integers, which float32 holds and adds exactly up
    to 2^24."""

    numbers: Int[ndarray, " m"]
    widths: Int[ndarray, " m"]
    weights: Float[torch.Tensor, "rows columns"]
    thresholds: Float[torch.Tensor, "m 1"]


def _batch(
    numbers: Int[ndarray, " m"],
    scores: Sequence[Int[ndarray, "_ 4"]],
    thresholds: Sequence[int | None],
) -> _Batch:
    widths = np.array([len(scores[i]) for i in numbers])
    weights = np.zeros((2, len(numbers), widths.max(), 4), np.float32)
    for forward, reverse, i, width in zip(*weights, numbers, widths, strict=True):
        forward[:width] = scores[i]
        reverse[:width] = scores[i][::-1, ::-1]
    return _Batch(
        numbers,
        widths,
        torch.from_numpy(weights.reshape(2 * len(numbers), -1)),
        torch.tensor([[float(thresholds[i] or 0)] for i in numbers]),
    )


def _hits_in(codes: Int8[ndarray, " l"], batch: _Batch) -> Int[ndarray, "h 3"]:
    """Motif, place and strand of each hit."""
    widest, found = int(batch.widths[-1]), []
    unknown = np.concatenate([[0], np.cumsum(codes < 0)])
    for first in range(0, len(codes), _BASES_AT_ONCE):
        part = codes[first : first + _BASES_AT_ONCE + widest - 1]
        # A place near the end reads beyond it, where all is unknown.
        padded = np.concatenate([part, np.full(_BASES_AT_ONCE + widest - 1 - len(part), -1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, _BASES_AT_ONCE)
        one_hot = windows[:, None] == np.arange(4)[:, None]  # (w, 4, places)
        columns = torch.from_numpy(one_hot.reshape(4 * widest, -1).astype(np.float32))
        forward, reverse = (batch.weights @ columns).chunk(2)
        is_hit = torch.maximum(forward, reverse) >= batch.thresholds
        which, place = is_hit.nonzero().numpy().T
        is_reverse = (reverse > forward)[which, place].numpy()
        end = first + place + batch.widths[which]
        known = end < len(unknown)
        known[known] = unknown[end[known]] == unknown[(first + place)[known]]
        found.append(
            np.stack([batch.numbers[which], first + place, is_reverse], 1)[known].astype(np.int64)
        )
    return np.concatenate(found)


def _end_to_end(
    sequences: Sequence[str],
) -> Iterator[tuple[int, Int8[ndarray, " l"], Int[ndarray, " n"]]]:
    """Sequences in a row with an unknown base after each: the number of the first, the bases, and
    where each begins. A million bases at a time, or a single sequence that is longer."""
    first = 0
    while first < len(sequences):
        parts, starts, length, i = [], [], 0, first
        while i < len(sequences) and (not parts or length < _BASES_TOGETHER):
            starts.append(length)
            parts += [codes_of(sequences[i]), np.full(1, -1, np.int8)]
            length += len(sequences[i]) + 1
            i += 1
        yield first, np.concatenate(parts), np.array(starts)
        first = i
