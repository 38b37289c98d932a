"""What scores of several runs say: their spread, intervals, and whether two models differ.

A *run* is one training of a classifier: what it told of each test item. A *figure* is a metric
over all of them or a part. In the protocol `paper` the runs are of five seeds, which choose what
trains and what validates, and all are tested on the same items; in `kfold` they are of the folds
of one set, and each item is tested once.

An interval over runs is of Student's t. Of `paper` it covers what another seed (split, order,
initialisation) would change. It does not cover another test set: that is the interval of a single
run over its items (`items_95`), which is wider where the test set is small. Of `kfold`, runs share
most of what they train with, so the variance is corrected by Nadeau & Bengio (2003, "Inference for
the generalization error", section 3), 1 / J + n_test / n_train in place of 1 / J for J runs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from genodiff.errors import UserError
from genodiff.evaluation.metrics import METRICS, are_numbers, items_95
from genodiff.evaluation.uncertainty import student_975

Protocol = Literal["paper", "kfold"]


class Figure(NamedTuple):
    """A metric, over all items or over those of a part; `name` tells it from others of a task."""

    name: str
    metric: str
    where: Bool[np.ndarray, "items"] | None = None


ACCURACY = Figure("accuracy", "accuracy")


class Run(NamedTuple):
    """One training: what was told of each of its test items, of these numbers, and their labels.
    Both are classes, or numbers."""

    fold: int
    seed: int
    n_train: int
    items: Int64[np.ndarray, "n"]
    told: Shaped[np.ndarray, "n"]
    labels: Shaped[np.ndarray, "n"]

    def score(self, metric: str) -> float:
        """Of all the run's items."""
        return METRICS[metric](self.told, self.labels)

    def among(self, where: Bool[np.ndarray, "items"] | None) -> "Run":
        """The run on some of its items alone."""
        if where is None:
            return self
        kept = where[self.items]
        return self._replace(
            items=self.items[kept], told=self.told[kept], labels=self.labels[kept]
        )

    @property
    def misses(self) -> Float[np.ndarray, "n"]:
        """How far off each item is: 0 or 1 of classes, of numbers the distance."""
        if are_numbers(self.labels):
            return np.abs(self.told - self.labels)
        return (self.told != self.labels).astype(float)


class Spread(NamedTuple):
    """Of one figure over several runs; `sd` and the interval are None for a single one."""

    mean: float
    sd: float | None
    max_minus_min: float
    confidence_95: tuple[float, float] | None


class PairedTest(NamedTuple):
    """Model a against model b, on the same items after the same training data.

    `difference` of mean figures, a - b, with its 95 % interval and p-value over runs (None for
    a single run), as `test` names it; McNemar's exact test over the items of the first seed, of
    which `only_a` were told right by a alone and `only_b` by b alone. Of numbers, that is the sign
    test: `only_a` were told nearer by a.
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


def score_row(
    metric: str, told: Shaped[np.ndarray, "n"], labels: Shaped[np.ndarray, "n"]
) -> dict[str, Any]:
    """A metric with its interval over items and their number, as results.json has them."""
    n = len(labels)
    return {
        metric: METRICS[metric](told, labels) if n else None,
        "n_test": n,
        "confidence_95": list(items_95(metric, told, labels)) if n else None,
    }


def score_results(
    task: str,
    model: str,
    protocol: Protocol,
    runs: Sequence[Run],
    *,
    unseen: Bool[np.ndarray, "items"],
    baselines: Mapping[str, Shaped[np.ndarray, "items"] | None],
    leakage: Mapping[str, Any],
    figures: Sequence[Figure] = (ACCURACY,),
) -> dict[str, Any]:
    """The contents of results.json.

    Args:
        unseen: of each item that any run tests, whether it has no copy in training data;
            `deduplicated` is of these alone, or None where there is none.
        baselines: by name, what a baseline tells of each item; None where it does not apply.
        leakage: `Audit.summary()`.
        figures: the first is that of `mean` and the rest; `also` has the same of the others.
    """
    parts = {
        figure.name: {
            "figure": figure.name,
            "metric": figure.metric,
            **_both(figure, protocol, runs, unseen, baselines),
        }
        for figure in figures
    }
    return {
        "task": task,
        "model": model,
        "protocol": protocol,
        **parts.pop(figures[0].name),
        "also": parts,
        "leakage": dict(leakage),
    }


def headline(found: Mapping[str, Any]) -> str:
    """What a person reads first."""
    text = f"{found['task']}, {found['model']}: {found['figure']} {found['mean']:.4f}"
    if found["confidence_95"] is not None:
        low, high = found["confidence_95"]
        text += f" (95 % {low:.4f} to {high:.4f} over {len(found['folds'])} runs)"
    if found["deduplicated"] is not None:
        text += f", {found['deduplicated']['mean']:.4f} on test items without a copy in training"
    baselines = [
        f"{name} {row[found['metric']]:.4f}"
        for name, row in found["baselines"].items()
        if row is not None
    ]
    return f"{text}; baselines: {', '.join(baselines)}"


def compare_scores(
    a: Sequence[Run], b: Sequence[Run], protocol: Protocol, figure: Figure = ACCURACY
) -> PairedTest:
    """Whether two models differ in a figure, by paired tests over runs and over items.

    Over the seeds of `paper`, Student's paired t test; over the folds of `kfold`, the corrected
    resampled t test (Nadeau & Bengio 2003). Over the items of the first seed, those of all its
    folds together, McNemar's exact test: it says nothing of what another training would change.

    Raises:
        UserError: the runs are not of the same folds, seeds and items.
    """
    pairs = [
        (one.among(figure.where), other.among(figure.where)) for one, other in paired_runs(a, b)
    ]
    differences = [one.score(figure.metric) - other.score(figure.metric) for one, other in pairs]
    ratio = _test_to_train(protocol, a)
    over_runs = spread(differences, test_to_train=ratio)
    of_seed = [pair for pair in pairs if pair[0].seed == pairs[0][0].seed]
    only_a = sum(int((one.misses < other.misses).sum()) for one, other in of_seed)
    only_b = sum(int((other.misses < one.misses).sum()) for one, other in of_seed)
    return PairedTest(
        over_runs.mean,
        over_runs.confidence_95,
        paired_t(differences, test_to_train=ratio) if len(differences) > 1 else None,
        "paired t over seeds" if protocol == "paper" else "corrected resampled t over folds",
        only_a,
        only_b,
        mcnemar(only_a, only_b),
    )


def paired_runs(a: Sequence[Run], b: Sequence[Run]) -> list[tuple[Run, Run]]:
    """The runs of two models on the same folds, in their order.

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
    return pairs


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


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """q-values of several tests, in the order given: the least share of false findings, in
    expectation, at which each is still one (Benjamini & Hochberg 1995; their tests are independent
    or positively dependent)."""
    adjusted, least = [0.0] * len(p_values), 1.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in reversed(list(enumerate(order, start=1))):
        least = min(least, len(p_values) / rank * p_values[i])
        adjusted[i] = least
    return adjusted


def _both(
    figure: Figure,
    protocol: Protocol,
    runs: Sequence[Run],
    unseen: Bool[np.ndarray, "items"],
    baselines: Mapping[str, Shaped[np.ndarray, "items"] | None],
) -> dict[str, Any]:
    """A figure of all its items, and of the unseen ones among them."""
    whole = [run.among(figure.where) for run in runs]
    kept = [run.among(unseen) for run in whole]
    return {
        **_summed(figure.metric, protocol, whole, baselines),
        "deduplicated": _summed(figure.metric, protocol, kept, baselines)
        if all(len(run.items) for run in kept)
        else None,
    }


def _summed(
    metric: str,
    protocol: Protocol,
    runs: Sequence[Run],
    baselines: Mapping[str, Shaped[np.ndarray, "items"] | None],
) -> dict[str, Any]:
    over_runs = spread(
        [run.score(metric) for run in runs], test_to_train=_test_to_train(protocol, runs)
    )
    items, first = np.unique(np.concatenate([run.items for run in runs]), return_index=True)
    labels = np.concatenate([run.labels for run in runs])[first]
    return {
        "folds": [
            {"fold": run.fold, "seed": run.seed, **score_row(metric, run.told, run.labels)}
            for run in runs
        ],
        **over_runs._asdict(),
        "confidence_95": over_runs.confidence_95 and list(over_runs.confidence_95),
        "baselines": {
            name: None if told is None else score_row(metric, told[items], labels)
            for name, told in baselines.items()
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
