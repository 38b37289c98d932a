"""Two likelihoods of the same sequences, on the same draws: their difference and their mean.

What both models find hard, and what a mask happens to hide, is then in both and not in the
difference, whose standard errors are far below those of either figure.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Unpack

import numpy as np

from genodiff.batch import TokenBatch
from genodiff.evaluation.estimators import ByObjective, Estimator
from genodiff.evaluation.evaluations import Evaluations, Evaluator
from genodiff.evaluation.likelihood import Likelihood, Settings, nelbo, of_evaluations
from genodiff.evaluation.sequences import read_sequences
from genodiff.evaluation.uncertainty import ratio_standard_error, student_975
from genodiff.ranks import ALONE


class Difference(NamedTuple):
    """One figure minus another, in nats per token; errors as in `Likelihood`."""

    nats_per_token: float
    standard_error: float
    confidence_95: tuple[float, float]
    standard_error_data: float | None

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict() | {"confidence_95": list(self.confidence_95)}


class Comparison(NamedTuple):
    """Likelihoods of two models and the second minus the first: below 0 the second is better.
    `paired`: both were evaluated with the same random numbers."""

    first: Likelihood
    second: Likelihood
    difference: Difference
    paired: bool


class Strands(NamedTuple):
    """Likelihoods of the strand as given and of the other one, of a model on the same masks,
    reflected. `mean`: of both. `difference`: the other strand's minus the given one's."""

    given: Likelihood
    other: Likelihood
    mean: Likelihood
    difference: Difference


def compare_likelihoods(
    first: Any,
    second: Any,
    batches: Iterable[TokenBatch],
    *,
    estimators: tuple[Estimator, Estimator],
    **settings: Unpack[Settings],
) -> Comparison:
    """Two models on the same sequences: on the same draws where both are estimated alike and count
    the same tokens, else sequence by sequence.

    Args:
        estimators: of the first and the second model.
        settings: the rest of `nelbo`'s arguments. With the same draws a `half_width` is the first
            model's.

    Raises:
        UserError: as `nelbo`.
    """
    kept = list(batches)
    a = nelbo(first, kept, estimator=estimators[0], **settings)
    return compare_with(a, second, kept, estimator=estimators[1], **settings)


def compare_with(
    first: Likelihood,
    second: Any,
    batches: Iterable[TokenBatch],
    *,
    estimator: Estimator,
    **settings: Unpack[Settings],
) -> Comparison:
    """As `compare_likelihoods`, of a model that has been evaluated, with these `settings`."""
    kept = list(batches)
    clusters = settings.get("clusters")
    weighted = settings.get("weighted", False)
    theirs = read_sequences(kept, partial(estimator.is_data, second), weighted=weighted)
    same_tokens = theirs.keys == first.evaluations.sequences.keys
    if not (same_tokens and _alike(first.evaluations.estimator, estimator)):
        b = nelbo(second, kept, estimator=estimator, **settings)
        return Comparison(first, b, _unpaired(first, b, clusters), False)
    b = _again(second, estimator, first, settings)
    difference = b.combined(first.evaluations, 1.0, -1.0)
    return Comparison(first, of_evaluations(b, clusters), _paired(difference, clusters), True)


def both_strands(
    model: Any,
    batches: Iterable[TokenBatch],
    complement: Sequence[int],
    *,
    estimator: Estimator,
    **settings: Unpack[Settings],
) -> Strands:
    """A model on sequences and on their reverse complements.

    Args:
        complement: the complement of each token id.
        settings: the rest of `nelbo`'s arguments. A `half_width` is the given strand's.

    Raises:
        UserError: as `nelbo`.
    """
    clusters = settings.get("clusters")
    given = nelbo(model, batches, estimator=estimator, **settings)
    other = _again(model, estimator, given, settings, complement)
    mean = other.combined(given.evaluations, 0.5, 0.5)
    difference = other.combined(given.evaluations, 1.0, -1.0)
    return Strands(
        given,
        of_evaluations(other, clusters),
        of_evaluations(mean, clusters),
        _paired(difference, clusters),
    )


def _again(
    model: Any,
    estimator: Estimator,
    first: Likelihood,
    settings: Settings,
    complement: Sequence[int] | None = None,
) -> Evaluations:
    """The same draws under another model or on the other strand."""
    evaluator = Evaluator(
        model,
        estimator,
        first.evaluations.sequences,
        seed=first.evaluations.seed,
        device=settings.get("device"),
        progress=settings.get("progress"),
        ranks=settings.get("ranks", ALONE),
        complement=complement,
    )
    return evaluator.run(first.evaluations.plan)


def _alike(first: Estimator, second: Estimator) -> bool:
    """Whether both draw the same of a sequence."""
    if isinstance(first, ByObjective) and isinstance(second, ByObjective):
        return first.objective == second.objective
    return type(first) is type(second)


def _paired(difference: Evaluations, clusters: Sequence[int] | None) -> Difference:
    result = of_evaluations(difference, clusters)
    return Difference(
        result.nats_per_token,
        result.standard_error,
        result.confidence_95,
        result.standard_error_data,
    )


def _unpaired(a: Likelihood, b: Likelihood, clusters: Sequence[int] | None) -> Difference:
    """b - a from independent draws: their errors add up, those of the data are still paired."""
    mean = b.nats_per_token - a.nats_per_token
    error = float(np.hypot(a.standard_error, b.standard_error))
    width = student_975(10**6) * error
    both = (a.sequence_tokens > 0) & (b.sequence_tokens > 0)
    rates = [
        np.divide(x.sequence_nats, x.sequence_tokens, out=np.zeros(len(both)), where=both)
        for x in (a, b)
    ]
    tokens = a.sequence_tokens * both
    data_error = ratio_standard_error((rates[1] - rates[0]) * tokens, tokens, clusters)
    return Difference(
        mean,
        error,
        (mean - width, mean + width),
        None if data_error is None else float(data_error),
    )
