"""Likelihood of sequences under a masked diffusion model, with its errors.

The negative evidence lower bound (NELBO) of a sequence with l data tokens does not depend on the
schedule: it is the mean over k = 1..l, and over the sets S of k positions, of l/k sum_{i in S}
-log p(x_i | what is not in S) (Ou et al. 2024, arXiv:2406.03736, section 3; Uria et al. 2014,
arXiv:1310.1757). `exactly_k` estimates just that, with k stratified over the whole set of
sequences. `paper` is the published estimator: one time t a sequence, stratified, each token masked
with probability 1 - alpha(t), weight -alpha'(t) / (1 - alpha(t)) (Sahoo et al. 2024,
arXiv:2406.07524, eq. 10), t from 1e-3 to 1. It leaves the times below 1e-3 and the tokens still
clean at t=1 out of the bound.

**What is masked** are the tokens that diffuse in training (the process' data tokens), whatever
their weight. **What counts** are those of them with weight above 0, each once, soft-masked or not:
N and padding do not count. `weighted=True` counts every token with its weight instead, as training
does.

**Two errors.** `standard_error` is what other masks would change, on exactly these sequences:
`stratified` says how it is found. `standard_error_data` is what other sequences, and other masks
with them, would change.
"""

import abc
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from genodiff.batch import TokenBatch
from genodiff.diffusion import Absorbing, AntitheticTimes, Denoiser, NoiseSchedule
from genodiff.diffusion.process import absorbing
from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed
from genodiff.evaluation.stratified import deal, fit_variance, source
from genodiff.evaluation.uncertainty import (
    bits,
    n_clusters,
    perplexity,
    ratio_standard_error,
    student_975,
)

Estimator = Literal["exactly_k", "paper"]


class Likelihood(NamedTuple):
    """Likelihood of a set of sequences, in nats unless the name says otherwise.

    `confidence_95` and `perplexity_95` are 95 % intervals from `standard_error`, the Monte-Carlo
    error on exactly these sequences; `standard_error_data` is by cluster, None with fewer than two
    clusters. `tokens` is what was counted, `sequences` how many held any of it,
    `network_evaluations` how many sequences went through the network, repeats for the standard
    error included. `bound`: the figure is an upper bound of -log p, not -log p itself.
    `sequence_nats` and `sequence_tokens` (n,): each sequence's estimated sum and its tokens, in
    the order given.
    """

    nats_per_token: float
    standard_error: float
    confidence_95: tuple[float, float]
    standard_error_data: float | None
    perplexity: float
    perplexity_95: tuple[float, float]
    bits_per_token: float
    tokens: float
    sequences: int
    network_evaluations: int
    estimator: Estimator
    bound: bool
    sequence_nats: Float[ndarray, " n"]
    sequence_tokens: Float[ndarray, " n"]

    def summary(self) -> dict[str, Any]:
        """The figures without the arrays, as plain JSON values."""
        figures = self._asdict()
        del figures["sequence_nats"], figures["sequence_tokens"]
        return figures | {
            "confidence_95": list(self.confidence_95),
            "perplexity_95": list(self.perplexity_95),
            "tokens": int(self.tokens) if self.tokens.is_integer() else self.tokens,
        }


def nelbo(
    denoiser: Denoiser,
    batches: Iterable[TokenBatch],
    *,
    estimator: Estimator = "exactly_k",
    samples_per_sequence: int = 1,
    repeats: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
    clusters: Sequence[int] | None = None,
    weighted: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Likelihood:
    """NELBO of the sequences in `batches`, per token.

    A sequence's masks follow from its tokens, the seed and the repetition: the result does not
    depend on how the sequences are batched, ordered or padded, beyond rounding, and two models are
    compared on the same masks.

    Args:
        denoiser: of an absorbing process; given back in the mode and on the device it came in.
        batches: read once, and kept in 3 bytes a token (6 with a vocabulary above 256, 3 more if
            `weighted`).
        samples_per_sequence: masks drawn for each sequence.
        repeats: with one sample a sequence, how many sequences are evaluated once more, for the
            standard error alone.
        seed: of the masks.
        device: where to evaluate; None is where the denoiser is.
        clusters: for `standard_error_data`, what repeats independently (BED row, document): one
            label a sequence in the order given. None takes every sequence for independent.
        weighted: count tokens with their weights, not once each.
        progress: called with (evaluations done, evaluations in all) after each batch.

    Raises:
        UserError: nothing to evaluate, an argument out of its range, or a network that gives no
            finite number.
    """
    process = absorbing(denoiser.process, "nelbo")
    if samples_per_sequence < 1:
        raise UserError(f"samples_per_sequence={samples_per_sequence} is below 1; use 1 or more.")
    if repeats < 1:
        raise UserError(f"repeats={repeats} leaves no standard error; use 1 or more.")
    if seed < 0:
        raise UserError(f"seed={seed} is negative; use 0 or more.")
    sequences, batch_size = _read(batches, process, weighted)
    tokens = np.array([sequence.weights.sum(dtype=np.float64) for sequence in sequences])
    n_clusters(tokens, clusters)  # wrong labels are refused now, not after the evaluation
    scored = np.flatnonzero(tokens > 0)
    if not len(scored):
        raise UserError(
            f"{len(sequences)} sequences hold no token to score (all N or padding, or no sequence "
            "at all); give a split with sequence in it."
        )

    keys = _keys([sequences[i] for i in scored])
    if samples_per_sequence > 1:
        repeats = 0
    plan = deal(keys, rounds=samples_per_sequence, repeats=repeats, seed=seed)
    owner = scored[plan.sequence]
    design = _DESIGNS[estimator]
    lengths = np.array([np.count_nonzero(sequences[i].is_data) for i in owner])
    levels = design.levels(plan.u, lengths, process.schedule)

    def masked(e: int) -> Bool[ndarray, " l"]:
        sequence = sequences[owner[e]]
        random = source(seed, keys[plan.sequence[e]], int(plan.round[e]), "mask")
        where = np.zeros(len(sequence.tokens), bool)
        where[design.choose(np.flatnonzero(sequence.is_data), levels.share[e], random)] = True
        return where

    nats, done = np.empty(len(owner)), 0
    with borrowed(denoiser, device) as here:
        for batch in _batches(owner, sequences, batch_size):
            rows = [sequences[i] for i in owner[batch]]
            masks = np.stack([masked(int(e)) for e in batch])
            t = torch.from_numpy(levels.t[batch, None]).to(here)
            nats[batch] = levels.weight[batch] * _masked_nats(denoiser, process, rows, masks, t)
            done += len(batch)
            if progress is not None:
                progress(done, len(owner))
    if not np.isfinite(nats).all():
        bad = np.flatnonzero(~np.isfinite(nats))[0]
        raise UserError(
            f"the network gives {nats[bad]} nats on sequence {owner[bad]} (from 0): its weights "
            "are damaged or training diverged; use another checkpoint."
        )

    counted = plan.round < samples_per_sequence
    sequence_nats = np.bincount(owner[counted], nats[counted], len(tokens)) / samples_per_sequence
    mean = sequence_nats.sum() / tokens.sum()
    error, freedom = _monte_carlo_error(sequences, tokens, owner, nats, levels, counted)
    error /= samples_per_sequence * tokens.sum()
    low, high = mean - student_975(freedom) * error, mean + student_975(freedom) * error
    data_error = ratio_standard_error(sequence_nats, tokens, clusters)
    return Likelihood(
        nats_per_token=float(mean),
        standard_error=float(error),
        confidence_95=(float(low), float(high)),
        standard_error_data=None if data_error is None else float(data_error),
        perplexity=perplexity(mean),
        perplexity_95=(perplexity(low), perplexity(high)),
        bits_per_token=bits(mean),
        tokens=float(tokens.sum()),
        sequences=len(scored),
        network_evaluations=len(owner),
        estimator=estimator,
        bound=True,
        sequence_nats=sequence_nats,
        sequence_tokens=tokens,
    )


class _Levels(NamedTuple):
    """Of each evaluation: the share masked, the factor on the masked nats, the time."""

    share: Float[ndarray, " e"]
    weight: Float[ndarray, " e"]
    t: Float[ndarray, " e"]


class _Design(abc.ABC):
    """Which tokens are masked at u in [0, 1], and what their nats count."""

    @abc.abstractmethod
    def levels(
        self, u: Float[ndarray, " e"], lengths: Int[ndarray, " e"], schedule: NoiseSchedule
    ) -> _Levels: ...

    @abc.abstractmethod
    def choose(
        self, data: Int[ndarray, " n"], share: np.floating, random: np.random.Generator
    ) -> Int[ndarray, " k"]:
        """The masked ones among the positions `data`."""


@final
class _ExactlyK(_Design):
    def levels(
        self, u: Float[ndarray, " e"], lengths: Int[ndarray, " e"], schedule: NoiseSchedule
    ) -> _Levels:
        k = np.minimum(1 + np.floor(u * lengths), lengths)
        t = schedule.inverse(torch.from_numpy(1 - k / lengths)).numpy()
        return _Levels(k / lengths, lengths / k, t)

    def choose(
        self, data: Int[ndarray, " n"], share: np.floating, random: np.random.Generator
    ) -> Int[ndarray, " k"]:
        return random.permutation(data)[: round(float(share * len(data)))]


@final
class _Paper(_Design):
    times = AntitheticTimes(t_min=1e-3, average=True)

    def levels(
        self, u: Float[ndarray, " e"], lengths: Int[ndarray, " e"], schedule: NoiseSchedule
    ) -> _Levels:
        t, density = self.times.at(schedule, torch.from_numpy(u)[:, None])
        weight = density * schedule.nelbo_weight(t)
        share, weight, t = (x[:, 0].numpy() for x in (schedule.mask_rate(t), weight, t))
        return _Levels(share, weight, t)

    def choose(
        self, data: Int[ndarray, " n"], share: np.floating, random: np.random.Generator
    ) -> Int[ndarray, " k"]:
        return data[random.random(len(data)) < share]


_DESIGNS: dict[str, _Design] = {"exactly_k": _ExactlyK(), "paper": _Paper()}


class _Sequence(NamedTuple):
    """Tokens, which of them diffuse, and what each counts (0 where it does not diffuse)."""

    tokens: Integer[ndarray, " l"]
    is_data: Bool[ndarray, " l"]
    weights: Shaped[ndarray, " l"]


def _read(
    batches: Iterable[TokenBatch], process: Absorbing, weighted: bool
) -> tuple[list[_Sequence], int]:
    """The sequences of all batches, and the size of the largest batch."""
    small = torch.uint8 if process.vocab_size <= 256 else torch.int32
    sequences, batch_size = [], 0
    for batch in batches:
        is_data = process.is_data(batch.tokens)
        weights = batch.weights if weighted else batch.weights > 0
        columns = (batch.tokens.to(small), is_data, weights * is_data)
        sequences += map(_Sequence, *(column.cpu().numpy() for column in columns))
        batch_size = max(batch_size, len(batch.tokens))
    return sequences, batch_size


def _keys(sequences: Sequence[_Sequence]) -> list[int]:
    """A number for each sequence, from its data tokens alone, and its place among equal ones."""
    seen: Counter[bytes] = Counter()
    keys = []
    for sequence in sequences:
        data = sequence.tokens[sequence.is_data].astype(np.int32)
        digest = hashlib.blake2b(data.tobytes(), digest_size=8).digest()
        keys.append(seen[digest] << 64 | int.from_bytes(digest))
        seen[digest] += 1
    return keys


def _batches(
    owner: Int[ndarray, " e"], sequences: Sequence[_Sequence], batch_size: int
) -> Iterator[Int[ndarray, " b"]]:
    """Evaluations in groups of sequences of equal length, padding included."""
    lengths = np.array([len(sequences[i].tokens) for i in owner])
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        yield from np.split(same, range(batch_size, len(same), batch_size))


def _masked_nats(
    denoiser: Denoiser,
    process: Absorbing,
    rows: Sequence[_Sequence],
    masked: Bool[ndarray, "b l"],
    t: Float[Tensor, "b 1"],
) -> Float[ndarray, " b"]:
    """Sum over each row's masked tokens of -log p, counted by their weights."""
    x0 = torch.from_numpy(np.stack([row.tokens for row in rows])).to(t.device, torch.int64)
    weights = torch.from_numpy(np.stack([row.weights for row in rows])).to(t.device)
    where = torch.from_numpy(masked).to(t.device)
    log_p = denoiser.log_likelihood_at(x0, process.mask(x0, where), t, where).double()
    log_p = log_p.new_zeros(where.shape).masked_scatter(where, log_p)
    return -(log_p * weights).sum(-1).cpu().numpy()


def _monte_carlo_error(
    sequences: Sequence[_Sequence],
    tokens: Float[ndarray, " n"],
    owner: Int[ndarray, " e"],
    nats: Float[ndarray, " e"],
    levels: _Levels,
    counted: Bool[ndarray, " e"],
) -> tuple[float, int]:
    """Standard error of the sum of the counted nats, with its degrees of freedom."""
    squares = [np.square(sequence.weights, dtype=np.float64).sum() for sequence in sequences]
    # of weight * (sum over a random share of the tokens), per token
    positions = levels.weight**2 * levels.share * (1 - levels.share)
    positions = positions * np.array(squares)[owner] / tokens[owner] ** 2
    interaction = (levels.weight * levels.share) ** 2
    fit = fit_variance(owner, nats / tokens[owner], levels.share, positions, interaction)
    variance = fit.positions * positions + fit.interaction * interaction
    return float(np.sqrt((variance * tokens[owner] ** 2)[counted].sum())), fit.degrees_of_freedom
