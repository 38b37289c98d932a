"""What accuracies of several runs say: their spread, intervals, and whether two models differ.

A *run* is one training of a classifier: which test items it got right. In the protocol `paper` the
runs are of five seeds, which choose what trains and what validates, and all are tested on the same
items; in `kfold` they are of the folds of one set, and each item is tested once.

An interval over runs is of Student's t. Of `paper` it covers what another seed (split, order,
initialisation) would change. It does not cover another test set: that is the Wilson interval of a
single run, which is wider where the test set is small. Of `kfold`, runs share most of what they
train with, so the variance is corrected by Nadeau & Bengio (2003, "Inference for the
generalization error", section 3), 1 / J + n_test / n_train in place of 1 / J for J runs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import student_975

Protocol = Literal["paper", "kfold"]


class Run(NamedTuple):
    """One training: whether each of its test items, of these numbers, was told right."""

    fold: int
    seed: int
    n_train: int
    items: Int64[np.ndarray, "n"]
    correct: Bool[np.ndarray, "n"]

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


class Spread(NamedTuple):
    """Of one figure over several runs; `sd` and the interval are None for a single one."""

    mean: float
    sd: float | None
    max_minus_min: float
    confidence_95: tuple[float, float] | None


class PairedTest(NamedTuple):
    """Model a against model b, on the same items after the same training data.

    `difference` of mean accuracies, a - b, with its 95 % interval and p-value over runs (None for
    a single run), as `test` names it; McNemar's exact test over the items of the first seed, of
    which `only_a` were told right by a alone and `only_b` by b alone.
    """

    difference: float
    confidence_95: tuple[float, float] | None
    p_runs: float | None
    test: str
    only_a: int
    only_b: int
    p_items: float


def spread(values: Sequence[float], *, test_to_train: float = 0.0) -> Spread:
    """Mean, standard deviation, range and 95 % interval of the mean.

    `test_to_train`: n_test / n_train where the runs train with parts of one set (Nadeau & Bengio);
    0 leaves the variance as it is.

    Raises:
        UserError: no value.
    """
    if not len(values):
        raise UserError("no run to sum up; give one or more.")
    mean, extent = float(np.mean(values)), float(np.max(values) - np.min(values))
    if len(values) < 2:
        return Spread(mean, None, extent, None)
    sd = float(np.std(values, ddof=1))
    half = student_975(len(values) - 1) * sd * math.sqrt(1 / len(values) + test_to_train)
    return Spread(mean, sd, extent, (mean - half, mean + half))


def wilson_95(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of n items (Wilson 1927): what another n items would change."""
    z = student_975(10**9)
    middle, width = correct + z**2 / 2, z * math.sqrt(correct * (n - correct) / n + z**2 / 4)
    return max((middle - width) / (n + z**2), 0.0), min((middle + width) / (n + z**2), 1.0)


def accuracy_row(correct: Bool[np.ndarray, "n"]) -> dict[str, Any]:
    """Accuracy with its Wilson interval and the number of items, as results.json has them."""
    n = len(correct)
    return {
        "accuracy": float(correct.mean()) if n else None,
        "n_test": n,
        "confidence_95": list(wilson_95(int(correct.sum()), n)) if n else None,
    }


def score_results(
    task: str,
    model: str,
    protocol: Protocol,
    runs: Sequence[Run],
    *,
    unseen: Bool[np.ndarray, "items"],
    baselines: Mapping[str, Bool[np.ndarray, "items"] | None],
    leakage: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of results.json.

    Args:
        unseen: of each item that any run tests, whether it has no copy in training data;
            `deduplicated` is of these alone, or None where there is none.
        baselines: by name, whether a baseline tells each item right; None where it does not apply.
        leakage: `Audit.summary()`.
    """
    kept = []
    for run in runs:
        is_kept = unseen[run.items]
        kept.append(run._replace(items=run.items[is_kept], correct=run.correct[is_kept]))
    tested = np.unique(np.concatenate([run.items for run in runs]))
    return {
        "task": task,
        "model": model,
        "protocol": protocol,
        **_summed(protocol, runs, tested, baselines),
        "deduplicated": _summed(protocol, kept, tested[unseen[tested]], baselines)
        if all(len(run.items) for run in kept)
        else None,
        "leakage": dict(leakage),
    }


def compare_scores(a: Sequence[Run], b: Sequence[Run], protocol: Protocol) -> PairedTest:
    """Whether two models differ, by paired tests over runs and over items.

    Over the seeds of `paper`, Student's paired t test; over the folds of `kfold`, the corrected
    resampled t test (Nadeau & Bengio 2003). Over the items of the first seed, those of all its
    folds together, McNemar's exact test: it says nothing of what another training would change.

    Raises:
        UserError: the runs are not of the same folds, seeds and items.
    """
    first, second = ({(run.fold, run.seed): run for run in runs} for runs in (a, b))
    if not first or first.keys() != second.keys():
        raise UserError(
            f"runs of (fold, seed) {sorted(first)} and {sorted(second)} cannot be paired; run "
            "both models on the same folds and seeds."
        )
    pairs = [(first[key], second[key]) for key in sorted(first)]
    for one, other in pairs:
        if not np.array_equal(one.items, other.items):
            raise UserError(
                f"fold {one.fold}, seed {one.seed}: the models were tested on different items; "
                "use the same data for both."
            )
    differences = [one.accuracy - other.accuracy for one, other in pairs]
    ratio = _test_to_train(protocol, a)
    over_runs = spread(differences, test_to_train=ratio)
    of_seed = [pair for pair in pairs if pair[0].seed == pairs[0][0].seed]
    only_a = sum(int((one.correct & ~other.correct).sum()) for one, other in of_seed)
    only_b = sum(int((other.correct & ~one.correct).sum()) for one, other in of_seed)
    return PairedTest(
        over_runs.mean,
        over_runs.confidence_95,
        paired_t(differences, test_to_train=ratio) if len(differences) > 1 else None,
        "paired t over seeds" if protocol == "paper" else "corrected resampled t over folds",
        only_a,
        only_b,
        mcnemar(only_a, only_b),
    )


def paired_t(differences: Sequence[float], *, test_to_train: float = 0.0) -> float:
    """Two-sided p-value of Student's t test that differences have mean 0, with the variance of
    Nadeau & Bengio as in `spread`. Equal differences give 0, or 1 where they are 0."""
    n, mean = len(differences), float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) * math.sqrt(1 / n + test_to_train)
    if error <= 1e-12 * abs(mean):  # rounding, not spread
        return float(mean == 0)
    return 1 - _student_within(mean / error, n - 1)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that either of two models is alone right equally often: twice the
    tail of a binomial with n = only_a + only_b and p = 1/2 (McNemar 1947)."""
    n = only_a + only_b
    tail, ways = 0, 1
    for k in range(min(only_a, only_b) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false alarm is kept (Holm
    1979), in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _summed(
    protocol: Protocol,
    runs: Sequence[Run],
    tested: Int64[np.ndarray, "n"],
    baselines: Mapping[str, Bool[np.ndarray, "items"] | None],
) -> dict[str, Any]:
    over_runs = spread(
        [run.accuracy for run in runs], test_to_train=_test_to_train(protocol, runs)
    )
    return {
        "folds": [
            {"fold": run.fold, "seed": run.seed, **accuracy_row(run.correct)} for run in runs
        ],
        **over_runs._asdict(),
        "confidence_95": over_runs.confidence_95 and list(over_runs.confidence_95),
        "baselines": {
            name: None if correct is None else accuracy_row(correct[tested])
            for name, correct in baselines.items()
        },
    }


def _test_to_train(protocol: Protocol, runs: Sequence[Run]) -> float:
    if protocol == "paper":
        return 0.0
    return float(np.mean([len(run.items) / run.n_train for run in runs]))


def _student_within(t: float, degrees_of_freedom: int) -> float:
    """P(|T| < |t|), a finite sum for whole degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    angle = math.atan2(abs(t), math.sqrt(degrees_of_freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees_of_freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, degrees_of_freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
