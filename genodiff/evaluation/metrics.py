"""By what predictions of labels are scored, each as one figure over n items.

Labels are classes, integers from 0, or numbers; predictions are the same. A figure that is not
defined, such as the correlation with something constant, is 0: nothing was told.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

from genodiff.evaluation.uncertainty import student_975

_RESAMPLES = 1000
Labels = Shaped[ndarray, " n"]


def are_numbers(labels: Labels) -> bool:
    """Whether labels are numbers, and not classes."""
    return labels.dtype.kind == "f"


def accuracy(told: Labels, labels: Labels) -> float:
    """The share that is right."""
    return float((told == labels).mean())


def f1(told: Labels, labels: Labels) -> float:
    """Of class 1 of two: the harmonic mean of precision and recall."""
    both = int(((told == 1) & (labels == 1)).sum())
    either = int((told == 1).sum() + (labels == 1).sum())
    return 2 * both / either if either else 0.0


def matthews(told: Labels, labels: Labels) -> float:
    """Correlation of two divisions into classes (Matthews 1975; for more than two classes Gorodkin
    2004, "Comparing two K-category assignments by a K-category correlation coefficient")."""
    k = 1 + int(max(told.max(initial=0), labels.max(initial=0)))
    table = np.bincount(labels * k + told, minlength=k * k).reshape(k, k).astype(float)
    of_label, of_told, n = table.sum(1), table.sum(0), table.sum()
    spread = (n * n - of_label @ of_label) * (n * n - of_told @ of_told)
    return float((n * np.trace(table) - of_label @ of_told) / math.sqrt(spread)) if spread else 0.0


def pearson(told: Labels, labels: Labels) -> float:
    """Pearson's correlation."""
    if np.ptp(told) == 0 or np.ptp(labels) == 0:  # means round: differences from them are not 0
        return 0.0
    a, b = told - told.mean(), labels - labels.mean()
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def spearman(told: Labels, labels: Labels) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank."""
    return pearson(ranks(told), ranks(labels))


METRICS: Mapping[str, Callable[[Labels, Labels], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def wilson_95(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of n items (Wilson 1927): what another n items would change."""
    z = student_975(10**9)
    middle, width = correct + z**2 / 2, z * math.sqrt(correct * (n - correct) / n + z**2 / 4)
    return max((middle - width) / (n + z**2), 0.0), min((middle + width) / (n + z**2), 1.0)


def items_95(metric: str, told: Labels, labels: Labels) -> tuple[float, float]:
    """95 % interval of a figure, of what another test set as large would change: Wilson's of an
    accuracy; of others the middle 95 % of 1,000 resamples of the items (Efron 1979), always the
    same ones."""
    n = len(labels)
    if metric == "accuracy":
        return wilson_95(int((told == labels).sum()), n)
    rng = np.random.default_rng(0)
    draws = (rng.integers(n, size=n) for _ in range(_RESAMPLES))
    found = [METRICS[metric](told[items], labels[items]) for items in draws]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def ranks(values: Labels) -> Float[ndarray, " n"]:
    """1 for the least value, n for the greatest; equal ones share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]
