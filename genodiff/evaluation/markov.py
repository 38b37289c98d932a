"""Interpolated Markov models of every order at once: the baselines beside which a network's
likelihood is read.

A *word* of order k is a letter with the k letters before it, numbered in base K (the number of
letters), oldest letter first, so that word = K context + letter. Words lie inside one window and
hold no N: at a window's start and after an N a model falls back to the longest context there is.
The models are nested,

    p_k(c | context) = (n(context, c) + lambda_k p_{k-1}(c | shorter context)) / (n(context) +
    lambda_k),

with p_{-1} uniform: at each order a Dirichlet prior centred on the order below (MacKay & Peto
1995, "A hierarchical Dirichlet language model"). lambda_k is the one that makes held-out letters
likeliest, order by order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Int32, Integer
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import n_clusters, ratio_standard_error, student_975
from genodiff.evaluation.words import Block, joined, letter_codes, reverse_complements, words

Window = Integer[ndarray, " _"]

_LARGEST_TABLE = 1 << 26
_BLOCK_TOKENS = 1 << 23
_HELD_OUT_SHARE, _HELD_OUT_TOKENS = 10, 1 << 21
# The upper end, 10^4 counts, keeps a held-out set of another composition from overruling millions
# of counts.
_LOG_CONCENTRATIONS = (-7.0, 9.2)


class MarkovLikelihood(NamedTuple):
    """Likelihood of windows under the models of order 0, 1, ... (axis k).

    `nats_per_token` and `perplexity` (k,); `standard_error_data` (k,), of the nats, and
    `perplexity_95` (k, 2) say what other windows of the same kind would change, by cluster (None
    with fewer than two clusters); `window_nats` (n, k) are sums over each window; `window_tokens`
    (n,) counts its letters, without N and padding.
    """

    nats_per_token: Float[ndarray, " k"]
    standard_error_data: Float[ndarray, " k"] | None
    perplexity: Float[ndarray, " k"]
    perplexity_95: Float[ndarray, "k 2"] | None
    window_nats: Float[ndarray, "n k"]
    window_tokens: Int[ndarray, " n"]


@final
@dataclass(frozen=True, eq=False)
class MarkovModel:
    """Counts of the words of each order, and how strongly each order leans on the one below.

    `counts[k]` holds n(context, c) at word = K context + c; `concentrations[k]` is lambda_k, in
    counts.
    """

    data_ids: tuple[int, ...]
    counts: tuple[Int32[ndarray, " _"], ...]
    concentrations: tuple[float, ...]

    @property
    def max_order(self) -> int:
        """The longest context, in letters."""
        return len(self.counts) - 1

    def nats(
        self, windows: Iterable[Window], *, clusters: Sequence[int] | None = None
    ) -> MarkovLikelihood:
        """-log p of `windows` (ids) at every order, in one pass.

        Args:
            windows: ids; whatever is not in `data_ids` (N, padding) is not scored and ends the
                context.
            clusters: what repeats independently (BED row, document), one label a window; None:
                each window.

        Raises:
            UserError: no letter to score, or not one label a window.
        """
        totals = [_context_totals(counts, len(self.data_ids)) for counts in self.counts]
        sums, tokens = [np.zeros((0, len(self.counts)))], [np.zeros(0, np.int64)]
        for block in _blocks(windows, self.data_ids):
            is_letter, n_windows = block.codes >= 0, len(block.units)
            owner = block.owner[is_letter]
            p = np.full(len(block.codes), 1 / len(self.data_ids))
            block_sums = np.empty((n_windows, len(self.counts)))
            for k, (ends, word) in enumerate(
                words(block.codes, len(self.data_ids), len(self.counts))
            ):
                count, total = self.counts[k][word], totals[k][word // len(self.data_ids)]
                p[ends] = _interpolate(count, total, p[ends], self.concentrations[k])
                block_sums[:, k] = np.bincount(owner, -np.log(p[is_letter]), n_windows)
            sums.append(block_sums)
            tokens.append(np.bincount(owner, minlength=n_windows))
        window_nats, window_tokens = np.concatenate(sums), np.concatenate(tokens)
        if not window_tokens.any():
            raise UserError(
                f"{len(window_tokens)} windows hold no letter to score (all N or padding, or no "
                "window at all); give windows with sequence in them."
            )
        mean = window_nats.sum(0) / window_tokens.sum()
        weights = window_tokens.astype(np.float64)
        error = ratio_standard_error(window_nats, weights, clusters)
        interval = None
        if error is not None:
            half = student_975(n_clusters(weights, clusters) - 1) * error
            interval = np.exp(np.stack([mean - half, mean + half], -1))
        return MarkovLikelihood(mean, error, np.exp(mean), interval, window_nats, window_tokens)


def fit_markov(
    windows: Iterable[Window],
    *,
    data_ids: Sequence[int],
    complement: Sequence[int] | None = None,
    max_order: int = 11,
    held_out: Iterable[Window] | None = None,
) -> MarkovModel:
    """Counts words up to `max_order` and chooses every lambda_k by held-out likelihood.

    Args:
        windows: training windows, as ids.
        data_ids: ids of the letters, e.g. `tokenizer.data_ids`; everything else breaks a context.
        complement: complement of every id; the reverse complement of each window is then counted
            too.
        max_order: longest context. Tables have K^(max_order + 1) entries: 64 MiB at order 11 for
            DNA.
        held_out: windows that choose the lambdas: the validation split, never the test split.
            None: the last tenth of every training window chooses them, on counts without it (of
            the first windows only, where there are millions of letters); the model returned keeps
            all counts.

    Raises:
        UserError: no letter in `windows`, or `max_order` out of range.
        ValueError: the complement of a letter is not a letter.
    """
    largest = _largest_order(len(data_ids))
    if not 0 <= max_order <= largest:
        raise UserError(
            f"max_order={max_order} is out of range for {len(data_ids)} letters; "
            f"use 0 to {largest}."
        )
    strands = [_strands(k, data_ids, complement) for k in range(max_order + 1)]
    counts = [np.zeros(len(data_ids) ** (k + 1), np.int32) for k in range(max_order + 1)]
    tails: list[_HeldOut] = []
    for block in _blocks(windows, data_ids):
        for k, (_, word) in enumerate(words(block.codes, len(data_ids), max_order + 1)):
            counts[k] += _count(word, len(counts[k]))
        if held_out is None and sum(tail.scored.sum() for tail in tails) < _HELD_OUT_TOKENS:
            tails.append(_last_tenths(block))
    if not counts[0].any():
        raise UserError(
            "the training windows hold no letter (all N or padding, or no window at all); "
            "give windows with sequence in them."
        )
    counts = [strand(count) for strand, count in zip(strands, counts, strict=True)]
    if held_out is None:
        concentrations = _fit_concentrations(counts, tails, strands)
    else:
        judges = [_HeldOut(block.codes, block.codes >= 0) for block in _blocks(held_out, data_ids)]
        concentrations = _fit_concentrations(counts, judges, None)
    return MarkovModel(tuple(data_ids), tuple(counts), concentrations)


def _largest_order(n_letters: int) -> int:
    order = 0
    while n_letters ** (order + 2) <= _LARGEST_TABLE and order < 64:
        order += 1
    return order


class _HeldOut(NamedTuple):
    """The letters of `codes` where `scored`; the others are context."""

    codes: Int8[ndarray, " l"]
    scored: Bool[ndarray, " l"]


def _blocks(windows: Iterable[Window], data_ids: Sequence[int]) -> Iterator[Block]:
    """A few million tokens at a time."""
    codes = (letter_codes(window, data_ids) for window in windows)
    return joined(codes, n_letters=_BLOCK_TOKENS)


def _last_tenths(block: Block) -> _HeldOut:
    lengths = np.bincount(block.owner)
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(block.codes)) - starts[block.owner]
    in_tail = position * _HELD_OUT_SHARE >= lengths[block.owner] * (_HELD_OUT_SHARE - 1)
    return _HeldOut(block.codes, in_tail & (block.codes >= 0))


def _count(word: Int32[ndarray, " m"], n_words: int) -> Int32[ndarray, " words"]:
    return np.bincount(word, minlength=n_words).astype(np.int32)


def _context_totals(counts: Int32[ndarray, " words"], n_letters: int) -> Int[ndarray, " contexts"]:
    return counts.reshape(-1, n_letters).sum(-1)


def _interpolate(
    count: Int[ndarray, " m"],
    total: Int[ndarray, " m"],
    below: Float[ndarray, " m"],
    concentration: float,
) -> Float[ndarray, " m"]:
    return (count + concentration * below) / (total + concentration)


Strands = Callable[[Int32[ndarray, " words"]], Int32[ndarray, " words"]]


def _strands(order: int, data_ids: Sequence[int], complement: Sequence[int] | None) -> Strands:
    """Counts of one strand to counts of both: n(word) + n(reverse complement of word)."""
    if complement is None:
        return lambda counts: counts
    if any(complement[i] not in data_ids for i in data_ids):
        raise ValueError(
            f"complement={complement} maps a letter of data_ids={data_ids} to none of them; "
            "give the tokenizer's own pair."
        )
    partner = [data_ids.index(complement[i]) for i in data_ids]
    return lambda counts: counts + counts[reverse_complements(order + 1, partner)]


def _fit_concentrations(
    counts: Sequence[Int32[ndarray, " _"]],
    judges: Sequence[_HeldOut],
    strands: Sequence[Strands] | None,
) -> tuple[float, ...]:
    """lambda_0, lambda_1, ... that make the judges' scored letters likeliest.

    With `strands` the scored letters are among those counted and are taken out first.
    """
    n_letters = len(counts[0])
    codes = np.concatenate([judge.codes for judge in judges]) if judges else np.zeros(0, np.int8)
    scored = np.concatenate([judge.scored for judge in judges]) if judges else np.zeros(0, bool)
    p = np.full(len(codes), 1 / n_letters)
    fitted: list[float] = []
    for k, (ends, word) in enumerate(words(codes, n_letters, len(counts))):
        is_scored = scored[ends]
        known = counts[k]
        if strands is not None:
            known = known - strands[k](_count(word[is_scored], len(known)))
        count = known[word]
        total = _context_totals(known, n_letters)[word // n_letters]
        fitted.append(_likeliest(count[is_scored], total[is_scored], p[ends & scored]))
        p[ends] = _interpolate(count, total, p[ends], fitted[-1])
    return tuple(fitted)


def _likeliest(
    count: Int[ndarray, " m"], total: Int[ndarray, " m"], below: Float[ndarray, " m"]
) -> float:
    """The lambda of least mean -log p, by golden section on its logarithm; 1 where nothing is held
    out."""
    if not len(count):
        return 1.0
    low, high = _LOG_CONCENTRATIONS
    golden = (5**0.5 - 1) / 2

    def nats(log_concentration: float) -> float:
        p = _interpolate(count, total, below, float(np.exp(log_concentration)))
        return -float(np.log(p).mean())

    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = nats(left), nats(right)
    while high - low > 0.05:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = nats(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = nats(right)
    return float(np.exp((low + high) / 2))
