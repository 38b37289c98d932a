"""Stratified evaluation of many sequences, and the standard error such a design has.

Sequence i is to be known by the mean over u in [0, 1] of g_i(u), its loss where a share u of it is
masked, and one evaluation gives g_i(u) plus the noise of one mask. In a *round* every sequence is
evaluated once, at u in a stratum of its own: [0, 1] is cut into as many strata as there are
sequences, dealt out at random. With g_i(u) = f(u) + a_i + h_i(u), a round's sum over sequences
carries next to nothing of f (every stratum occurs once) and nothing of a_i (every sequence occurs
once): what is left is the interaction h and the mask noise.

One round cannot tell a_i, which does no harm, from h_i, which does. The standard error is
therefore taken from sequences evaluated more than once, whose differences are free of a_i, in
three steps: the common curve f is fitted and removed; the variance is modelled as that of drawing
k of l positions plus that of the interaction, v = lambda (1/k - 1/l) + tau^2 per token, because
the few draws with a small k have most of the variance and a plain mean of squares would be ruled
by whichever of them happened to be repeated; v is summed over the evaluations that make up the
estimate. Measured coverage of the 95 % interval: 94 to 96 % with one round, 92 to 94 % with two or
three rounds of 24 to 100 short sequences, whose errors are skewed.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

_CURVE_DEGREE = 4
_DIFFERENCES_PER_COEFFICIENT = 10


class Plan(NamedTuple):
    """Evaluations in order: of which sequence, in which round, at which u."""

    sequence: Int[ndarray, " e"]
    round: Int[ndarray, " e"]
    u: Float[ndarray, " e"]


class Variance(NamedTuple):
    """Factors of the two shapes of the variance, and the degrees of freedom they rest on."""

    positions: float
    interaction: float
    degrees_of_freedom: int


def source(
    seed: int, key: int, round_: int, purpose: Literal["deal", "mask"]
) -> np.random.Generator:
    """The random numbers of one sequence (known by its key) in one round, for one purpose."""
    return np.random.default_rng((seed, key, round_, purpose == "mask"))


def deal(keys: Sequence[int], *, rounds: int, repeats: int, seed: int) -> Plan:
    """Deals strata: `rounds` rounds of all sequences, then one of `repeats` of them at random.

    What a sequence is dealt follows from the seed and the set of keys, not from their order.
    """
    sequence, round_, u = [], [], []
    for j in range(rounds + (repeats > 0)):
        draws = np.array([source(seed, key, j, "deal").random(3) for key in keys]).reshape(-1, 3)
        members = np.argsort(draws[:, 0])[: repeats if j == rounds else None]
        order = members[np.argsort(draws[members, 1])]
        sequence.append(order)
        round_.append(np.full(len(order), j))
        u.append((np.arange(len(order)) + draws[order, 2]) / len(order))
    return Plan(np.concatenate(sequence), np.concatenate(round_), np.concatenate(u))


def fit_variance(
    sequence: Int[ndarray, " e"],
    y: Float[ndarray, " e"],
    x: Float[ndarray, " e"],
    positions: Float[ndarray, " e"],
    interaction: Float[ndarray, " e"],
) -> Variance:
    """Fits Var(y) = lambda positions + tau^2 interaction from sequences evaluated more than once.

    Args:
        sequence: which sequence each evaluation is of.
        y: the evaluation, per token.
        x: share of the sequence that was masked, in which the common curve is a polynomial.
        positions, interaction: the two known shapes of the variance.
    """
    _, index, n_evaluations = np.unique(sequence, return_inverse=True, return_counts=True)
    repeated = n_evaluations[index] > 1
    _, index, n_evaluations = np.unique(
        sequence[repeated], return_inverse=True, return_counts=True
    )
    differences = int((n_evaluations - 1).sum())
    if not differences:
        return Variance(0.0, 0.0, 0)

    def per_sequence(values: Float[ndarray, " e"]) -> Float[ndarray, " s"]:
        return np.bincount(index, values[repeated])

    def centred(values: Float[ndarray, " e"]) -> Float[ndarray, " r"]:
        return values[repeated] - (per_sequence(values) / n_evaluations)[index]

    shapes = np.stack([per_sequence(positions), per_sequence(interaction)])
    degree = min(_CURVE_DEGREE, differences // _DIFFERENCES_PER_COEFFICIENT)
    powers = np.stack(
        [centred((2 * x - 1) ** d) for d in range(1, degree + 1)] or [0 * centred(x)]
    )
    residual, rank = centred(y), 0
    components = np.zeros(2)
    for _ in range(3):
        squares = np.bincount(index, residual**2) * n_evaluations / (n_evaluations - 1)
        components = _gamma_fit(squares, shapes, n_evaluations - 1)
        scale = np.sqrt((components @ shapes)[index])
        scale = np.where(scale > 0, scale, 1.0)
        slope, _, rank, _ = np.linalg.lstsq((powers / scale).T, centred(y) / scale, rcond=1e-9)
        residual = centred(y) - slope @ powers
    freedom = max(differences - int(rank), 1)
    components = components * differences / freedom
    return Variance(float(components[0]), float(components[1]), freedom)


def _gamma_fit(
    squares: Float[ndarray, " s"], shapes: Float[ndarray, "c s"], freedom: Int[ndarray, " s"]
) -> Float[ndarray, " c"]:
    """Coefficients >= 0 that make `squares`, chi-square about coefficients @ shapes, likeliest.

    Multiplicative updates of the Itakura-Saito divergence (Fevotte & Idier 2011, arXiv:1010.1763,
    eq. 4.2).
    """
    used = shapes.sum(0) > 0
    squares, shapes, freedom = squares[used], shapes[:, used], freedom[used]
    coefficients = np.zeros(len(shapes))
    possible = shapes.sum(1) > 0
    if not squares.any():
        return coefficients
    coefficients[possible] = squares.sum() / shapes[possible].sum(1)
    smallest = 1e-9 * squares.mean()
    for _ in range(50):
        fit = np.maximum(coefficients @ shapes, smallest)
        above = (shapes * freedom / fit**2 * squares).sum(1)
        below = (shapes * freedom / fit).sum(1)
        coefficients[possible] *= np.sqrt(above[possible] / below[possible])
    return coefficients
