"""Likelihood of sequences under a model, with its errors.

**What is measured** is -log p per token, or an upper bound of it: `genodiff.evaluation.estimators`
says which, and draws what is random. The default, `AnyOrder`, is the negative evidence lower bound
of masked diffusion over the whole range of mask rates, with k of n tokens masked and k stratified
over all sequences (`stratified`); what tokens cost on average is guessed from their frequencies,
and only the rest is left to chance (`control`).

**What counts** are the tokens that diffuse in training (the process' data tokens) and have a
weight above 0, each once, soft-masked or not: N and padding do not count. `weighted=True` counts
every token with its weight instead, as training does.

**Two errors.** `standard_error` is what other masks would change, on exactly these sequences.
`standard_error_data` is what other sequences, and other masks with them, would change.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from genodiff.batch import TokenBatch
from genodiff.errors import UserError
from genodiff.evaluation.estimate import estimate
from genodiff.evaluation.estimators import AnyOrder, Estimator
from genodiff.evaluation.evaluations import Evaluations, Evaluator
from genodiff.evaluation.mask_rates import MaskRate, by_mask_rate
from genodiff.evaluation.sequences import read_sequences
from genodiff.evaluation.stratified import deal, join
from genodiff.evaluation.uncertainty import (
    bits,
    n_clusters,
    perplexity,
    ratio_standard_error,
)
from genodiff.ranks import ALONE, Ranks


class Likelihood(NamedTuple):
    """Likelihood of a set of sequences, in nats unless the name says otherwise.

    `confidence_95` and `perplexity_95` are 95 % intervals from `standard_error`, the Monte-Carlo
    error on exactly these sequences; `standard_error_data` is by cluster, None with fewer than two
    clusters. `tokens` is what was counted, `sequences` how many held any of it, `left_out` how
    many of each token id did not count. `network_evaluations`: how many sequences went through the
    network. `bound`: the figure is an upper bound of -log p, not -log p itself. `mask_rates`: what
    a token costs by the share that is masked, where the estimator goes by it. `sequence_nats` and
    `sequence_tokens` (n,): each sequence's estimated sum and its tokens, in the order given.
    `evaluations`: what other figures on the same draws are made of.
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
    estimator: str
    bound: bool
    mask_rates: list[MaskRate]
    left_out: dict[int, int]
    sequence_nats: Float[ndarray, " n"]
    sequence_tokens: Float[ndarray, " n"]
    evaluations: Evaluations

    def summary(self) -> dict[str, Any]:
        """The figures without the arrays, as plain JSON values."""
        figures = self._asdict()
        for name in ("left_out", "sequence_nats", "sequence_tokens", "evaluations"):
            del figures[name]
        return figures | {
            "confidence_95": list(self.confidence_95),
            "perplexity_95": list(self.perplexity_95),
            "tokens": int(self.tokens) if self.tokens.is_integer() else self.tokens,
            "mask_rates": [rate.summary() for rate in self.mask_rates],
        }


class Settings(TypedDict, total=False):
    """What `nelbo` can be told besides model, sequences and estimator; see there."""

    samples_per_sequence: int
    repeats: int
    half_width: float | None
    max_evaluations: int | None
    seed: int
    device: torch.device | str | None
    clusters: Sequence[int] | None
    weighted: bool
    progress: Callable[[int, int], None] | None
    ranks: Ranks


def nelbo(
    model: Any,
    batches: Iterable[TokenBatch],
    *,
    estimator: Estimator | None = None,
    samples_per_sequence: int = 1,
    repeats: int = 64,
    half_width: float | None = None,
    max_evaluations: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    clusters: Sequence[int] | None = None,
    weighted: bool = False,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Likelihood:
    """-log p of the sequences in `batches` per token, or a bound of it: the estimator's choice.

    A sequence's masks follow from its tokens, the seed and the round: the result does not depend
    on how the sequences are batched, ordered or (but for `ByObjective`) padded, beyond rounding,
    and two models are compared on the same masks.

    Args:
        model: what the estimator evaluates; given back in the mode and on the device it came in.
        batches: read once.
        estimator: None is `AnyOrder()`, for denoisers of masks.
        samples_per_sequence: rounds, each with one evaluation of every sequence (and one more of a
            third of them where hardly anything is masked, if the estimator has a `low`).
        repeats: with one round, how many sequences are evaluated once more, without which there
            is no standard error.
        half_width: go on until the 95 % interval is the estimate plus and minus so much, in nats
            per token.
        max_evaluations: stop going on once so many network evaluations were made; None for no
            limit.
        seed: of the masks.
        device: where to evaluate; None is where the model is.
        clusters: for `standard_error_data`, what repeats independently (BED row, document): one
            label a sequence in the order given. None takes every sequence for independent.
        weighted: count tokens with their weights, not once each.
        progress: called with (evaluations done, evaluations planned) after each batch.
        ranks: of the processes that share the work, each with the same arguments and result.

    Raises:
        UserError: nothing to evaluate, an argument out of its range, an estimator that is not for
            this model, or a network that gives no finite number.
    """
    estimator = AnyOrder() if estimator is None else estimator
    estimator.check(model)
    if samples_per_sequence < 1:
        raise UserError(f"samples_per_sequence={samples_per_sequence} is below 1; use 1 or more.")
    if repeats < 1:
        raise UserError(f"repeats={repeats} leaves no standard error; use 1 or more.")
    if half_width is not None and half_width <= 0:
        raise UserError(f"half_width={half_width} is no width; use e.g. half_width=0.001.")
    if max_evaluations is not None and max_evaluations < 1:
        raise UserError(f"max_evaluations={max_evaluations} is below 1; use 1 or more, or none.")
    if seed < 0:
        raise UserError(f"seed={seed} is negative; use 0 or more.")
    is_data = partial(estimator.is_data, model)
    sequences = read_sequences(batches, is_data, weighted=weighted)
    n_clusters(sequences.tokens, clusters)  # wrong labels are refused now, not after
    n = len(sequences.scored)
    evaluator = Evaluator(
        model, estimator, sequences, seed=seed, device=device, progress=progress, ranks=ranks
    )
    counts = [n] * samples_per_sequence
    if samples_per_sequence == 1:
        counts.append(min(repeats, n))
    if estimator.exact:
        counts = [n]
    plan = partial(deal, sequences.keys, low=estimator.low, seed=seed)
    evaluations = evaluator.run(join([plan(j, count) for j, count in enumerate(counts)]))
    while half_width is not None and not estimator.exact:
        width = estimate(evaluations, looked=True).half_width
        left = math.inf if max_evaluations is None else max_evaluations - evaluations.network
        if width <= half_width or left < 1:
            break
        counts.append(int(min(_missing(sum(counts) / n, width / half_width, n), left)))
        evaluations = evaluator.run(plan(len(counts) - 1, counts[-1]))
    return of_evaluations(evaluations, clusters, looked=half_width is not None)


def of_evaluations(
    evaluations: Evaluations, clusters: Sequence[int] | None = None, *, looked: bool = False
) -> Likelihood:
    """What evaluations say, whether of a model or, combined, of several; see `estimate`."""
    sequences, estimator = evaluations.sequences, evaluations.estimator
    result = estimate(evaluations, looked=looked)
    nats = np.zeros(len(sequences.tokens))
    nats[sequences.scored] = result.sequence_nats
    mean = result.nats_per_token
    low, high = mean - result.half_width, mean + result.half_width
    data_error = ratio_standard_error(nats, sequences.tokens, clusters)
    return Likelihood(
        nats_per_token=mean,
        standard_error=result.standard_error,
        confidence_95=(low, high),
        standard_error_data=None if data_error is None else float(data_error),
        perplexity=perplexity(mean),
        perplexity_95=(perplexity(low), perplexity(high)),
        bits_per_token=bits(mean),
        tokens=float(sequences.tokens.sum()),
        sequences=len(sequences.scored),
        network_evaluations=evaluations.network,
        estimator=estimator.name,
        bound=estimator.bound,
        mask_rates=by_mask_rate(evaluations, result) if isinstance(estimator, AnyOrder) else [],
        left_out=sequences.left_out,
        sequence_nats=nats,
        sequence_tokens=sequences.tokens,
        evaluations=evaluations,
    )


def _missing(rounds: float, excess: float, n: int) -> int:
    """Evaluations of n sequences that a further round needs, at most n, after so many rounds whose
    interval is `excess` times too wide.

    With r + p rounds, p < 1, a share p of the sequences has r + 1 evaluations and the rest r: the
    variance is p / (r + 1) + (1 - p) / r of one round's.
    """

    def variance(rounds: float) -> float:
        whole, part = divmod(rounds, 1)
        return (1 - part) / whole + part / (whole + 1)

    # A tenth more, and no small steps: of many looks the first that is narrow enough would be one
    # at which the variance happens to be underestimated.
    wanted = variance(rounds) / excess**2 / 1.1
    steps = np.linspace(0.25, 1, 76)
    more = next((step for step in steps if variance(rounds + step) <= wanted), 1.0)
    return math.ceil(more * n)
