"""What figures would be with other sequences: the Bayesian bootstrap, over a stream.

What repeats independently is the *unit*: a sequence, or all sequences of one record of a genome.
Every resample gives each unit a weight of its own, exponential with mean 1 (Rubin 1981, "The
Bayesian bootstrap"). A figure of a set is a function of sums over its sequences, of counts for
instance: the sums under every resample's weights are all that is kept. The bootstrap of Efron
(1979), or its Poisson form, has weights of the same mean and variance, but may leave a small set
without anything.

A unit's weights follow from the seed and its number alone, so that those of two sets are the same:
`independent` brings them out of step before resamples of both meet.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.text_statistics import Measure, measure
from genodiff.evaluation.uncertainty import student_975, student_p_value

RESAMPLES = 200
"""A standard error from so many is itself within 10 % (95 %)."""


class Resampled(NamedTuple):
    """A figure of a set and of its resamples, whose units are `n_units`."""

    value: float
    resampled: Float[ndarray, " r"]
    n_units: int

    @property
    def standard_error(self) -> float:
        """Of other units of the same law. Raises UserError for fewer than two units."""
        off = deviations(self.resampled, np.asarray(self.value), self.n_units)
        return float(np.sqrt((off**2).mean()))  # around 0, not around the resamples' mean

    @property
    def measure(self) -> Measure:
        """With Student's interval; of a single unit, without."""
        if self.n_units < 2:
            return Measure(self.value, None, None)
        return measure(self.value, self.standard_error, self.n_units)


class SetDifference(NamedTuple):
    """A figure of one set less that of another. `p_value`: how probable a difference at least as
    large, in either direction, would be if both sets were of one law (Student's t)."""

    value: float
    standard_error: float
    confidence_95: tuple[float, float]
    p_value: float

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**self._asdict(), "confidence_95": list(self.confidence_95)}


def unit_weights(units: Int[ndarray, " n"], resamples: int, seed: int) -> Float32[ndarray, "n r"]:
    """The weight of each sequence, given the number of its unit, in every resample."""
    numbers, place = np.unique(units, return_inverse=True)
    weights = np.empty((len(numbers), resamples), np.float32)
    for row, number in zip(weights, numbers.tolist(), strict=True):
        random = np.random.default_rng((seed, number))
        random.standard_exponential(out=row, dtype=np.float32)
    return weights[place]


def independent(resampled: Float[ndarray, "r *f"]) -> Float[ndarray, "r *f"]:
    """The same resamples in an order in which none meets its own weights in another set."""
    return np.roll(resampled, 1, 0)


def deviations(
    resampled: Float[ndarray, "r *f"], value: Float[ndarray, "*f"], n_units: int
) -> Float[ndarray, "r *f"]:
    """Resampled figures less the figure itself, with the variance of its error.

    Of a mean over n units the bootstrap's own is less, by (n - 1) / (n + 1).

    Raises:
        UserError: fewer than two units.
    """
    if n_units < 2:
        raise UserError(
            f"{n_units} independent sequence cannot tell what others would change; give two or "
            "more, or the records that they are of."
        )
    return (resampled - value.astype(resampled.dtype)) * math.sqrt((n_units + 1) / (n_units - 1))


def difference(ours: Resampled, theirs: Resampled) -> SetDifference:
    """One figure less the other, of two sets that have nothing to do with each other.

    Raises:
        UserError: fewer than two units in either.
    """
    errors = ours.standard_error, theirs.standard_error
    n_units = ours.n_units, theirs.n_units
    value, error = ours.value - theirs.value, math.hypot(*errors)
    freedom = _freedom(errors, n_units)
    half = student_975(int(freedom)) * error
    p_value = float(value == 0)
    if error:
        p_value = float(student_p_value(np.array(value / error), np.array(freedom)))
    return SetDifference(value, error, (value - half, value + half), p_value)


def _freedom(errors: tuple[float, float], n_units: tuple[int, int]) -> float:
    """The degrees of freedom of Welch (1947)."""
    parts = sum(error**4 / (n - 1) for error, n in zip(errors, n_units, strict=True))
    return max(math.hypot(*errors) ** 4 / parts, 1.0) if parts else sum(n_units) - 2.0
