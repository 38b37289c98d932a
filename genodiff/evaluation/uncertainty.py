"""Standard errors and intervals shared by the evaluations.

A figure per token is a ratio, sum of nats over sum of tokens; what repeats independently is the
cluster (a BED row, a document), not the token.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from genodiff.errors import UserError

_NORMAL_975 = 1.959963984540054


def student_975(degrees_of_freedom: int) -> float:
    """The 97.5 % point of Student's t: half a 95 % interval, in standard errors.

    Exact for 1 and 2 degrees of freedom, else the Cornish-Fisher expansion (Abramowitz & Stegun
    26.7.5), within 0.2 %.
    """
    if degrees_of_freedom == 1:
        return math.tan(0.475 * math.pi)
    if degrees_of_freedom == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z = _NORMAL_975
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees_of_freedom**power for power, term in enumerate(terms))


def student_p_value(
    t: Float[ndarray, "*s"], degrees_of_freedom: Float[ndarray, "*s"]
) -> Float[ndarray, "*s"]:
    """P(|T| > |t|) of Student's t, within a tenth up to |t| = 4 and a third at 12.

    By the normal approximation of Wallace (1959, "Bounds on normal approximations to Student's and
    the chi-square distributions"), for any degrees of freedom, whole or not.
    """
    eighths = 8 * degrees_of_freedom
    z = np.sqrt(degrees_of_freedom * np.log1p(t**2 / degrees_of_freedom))
    z = z * (eighths + 1) / (eighths + 3) / math.sqrt(2)
    return np.array([math.erfc(each) for each in np.ravel(z)]).reshape(np.shape(z))


def n_clusters(weights: Float[ndarray, " n"], clusters: Sequence[int] | None = None) -> int:
    """How many clusters hold anything. `clusters` None: each item is its own."""
    return len(np.unique(_labels(weights, clusters)[weights > 0]))


def ratio_standard_error(
    totals: Float[ndarray, "n *c"],
    weights: Float[ndarray, " n"],
    clusters: Sequence[int] | None = None,
) -> Float[ndarray, "*c"] | None:
    """Standard error of sum(totals) / sum(weights) when whole clusters are drawn at random.

    The ratio estimator's linearised variance, C / (C - 1) sum_c e_c^2 / (sum weights)^2 with
    e_c = totals_c - ratio weights_c (Cochran 1977, Sampling Techniques, section 9A).

    Args:
        totals: numerator of each item; further axes are further figures over the same items.
        weights: denominator of each item; items of weight 0 do not count.
        clusters: the cluster of each item; None takes each item as its own.

    Returns:
        The standard error, or None with fewer than two clusters.

    Raises:
        UserError: `clusters` has another length than `totals`.
    """
    counted = weights > 0
    names, index = np.unique(_labels(weights, clusters)[counted], return_inverse=True)
    if len(names) < 2:
        return None
    weight = np.bincount(index, weights[counted])
    total = np.zeros((len(names), *totals.shape[1:]))
    np.add.at(total, index, totals[counted])
    residual = total - np.multiply.outer(weight, total.sum(0) / weight.sum())
    variance = len(names) / (len(names) - 1) * (residual**2).sum(0) / weight.sum() ** 2
    return np.asarray(np.sqrt(variance))


def _labels(weights: Float[ndarray, " n"], clusters: Sequence[int] | None) -> ndarray:
    labels = np.arange(len(weights)) if clusters is None else np.asarray(clusters)
    if len(labels) != len(weights):
        raise UserError(
            f"{len(labels)} cluster labels for {len(weights)} sequences; give one label for each."
        )
    return labels


def perplexity(nats_per_token: float) -> float:
    """exp(nats): the number of equally likely letters that would be as hard to tell."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits(nats: float) -> float:
    """Nats in bits."""
    return nats / math.log(2)
