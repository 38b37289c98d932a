"""The Frechet distance of embeddings: how far apart two sets are, seen as two Gaussians.

    d^2 = |mu_a - mu_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))

of means mu and covariances A, B (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500, of
images). It is 0 for equal laws, but of samples never: it is biased upwards by a share that falls
with their number and grows with the dimensions (Chong & Forsyth 2020, arXiv:1911.07023). So it is
read here beside the same distance of two halves of each set, which are as biased: the *excess* is
the mean distance of a half of the samples from a half of the reference, less the mean of the
distances within the two sets. Of equal laws its mean is 0 at any number of vectors, also of fewer
than dimensions.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.uncertainty import student_975
from genodiff.evaluation.words import codes_of, word_shares

_SPLITS = 10
_GROUPS = 20
_FEWEST_UNITS = 4

Units = tuple[Iterable[int], Iterable[int]]


class Frechet(NamedTuple):
    """The squared Frechet distance of the vectors of samples and reference.

    `distance`: of all vectors that are used, `sequences` of each set; the figure others publish.
    `between`: mean distance of a half of the samples and a half of the reference. `floor`: the
    same of the two halves of the reference, which a perfect generator would have, and
    `floor_range` over splits. `excess`: `between` less the mean of the distances within each set,
    with its standard error and interval; it may be negative. `given`: how many vectors there were,
    of (samples, reference).
    """

    distance: float
    between: float
    floor: float
    floor_range: tuple[float, float]
    excess: float
    standard_error: float
    confidence_95: tuple[float, float]
    dimensions: int
    sequences: int
    given: tuple[int, int]
    seed: int

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **self._asdict(),
            "floor_range": list(self.floor_range),
            "confidence_95": list(self.confidence_95),
            "given": list(self.given),
        }


def kmer_embedding(sequences: Iterable[str], k: int = 4) -> Float[ndarray, "n words"]:
    """The share of each word of k letters, both strands as one: 136 of 4 letters."""
    return word_shares(map(codes_of, sequences), [k]).astype(np.float64)


def frechet_distance(
    mean_a: Float[ndarray, " d"],
    covariance_a: Float[ndarray, "d d"],
    mean_b: Float[ndarray, " d"],
    covariance_b: Float[ndarray, "d d"],
) -> float:
    """Of two Gaussians, squared. The root is of a symmetric matrix, by its eigenvalues: it is
    real, and stands singular covariances."""
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_b @ root)
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    apart = ((mean_a - mean_b) ** 2).sum()
    return float(apart + traces - 2 * np.sqrt(product.clip(0)).sum())


def frechet(
    samples: Float[ndarray, "n d"],
    reference: Float[ndarray, "m d"],
    *,
    units: Units | None = None,
    limit: int = 2000,
    seed: int = 0,
) -> Frechet:
    """The distance of two sets of vectors, and what of it is not due to their number.

    Every dimension is divided by its standard deviation in the reference, so that the distance has
    no unit; dimensions that are constant there stay as they are. The standard error is the
    jackknife's of `distance`, which leaves out one of 20 groups of units of either set at a time
    (fewer where there are fewer units); where laws are equal it is rather too large.

    Args:
        units: what repeats independently (the record that a sequence was cut from), one number a
            vector, of (samples, reference): halves and groups are of whole units. None: each
            vector.
        limit: vectors of each set that are used at most; as many of one as of the other.
        seed: of what is left out, of halves and groups.

    Raises:
        UserError: fewer than 4 units in a set.
    """
    given = (len(samples), len(reference))
    random = np.random.default_rng(seed)
    size = min(limit, *given)
    sd = reference.std(0)
    sets = []
    for name, vectors, numbers in (
        ("samples", samples, None if units is None else units[0]),
        ("reference", reference, None if units is None else units[1]),
    ):
        rows = np.sort(random.permutation(len(vectors))[:size])
        unit = np.arange(size) if numbers is None else np.fromiter(numbers, np.int64)[rows]
        sets.append(_Vectors.of(name, vectors[rows] / np.where(sd > 0, sd, 1), unit))
    ours, theirs = sets
    between, within_ours, floors = [], [], []
    for _ in range(_SPLITS):
        halves = [*ours.halves(random), *theirs.halves(random)]
        smallest = min(map(len, halves))
        a, b, c, d = (random.permutation(half)[:smallest] for half in halves)
        between += [_distance(a, c), _distance(b, d)]
        within_ours.append(_distance(a, b))
        floors.append(_distance(c, d))
    excess = float(np.mean(between) - (np.mean(within_ours) + np.mean(floors)) / 2)
    parts = [
        [_distance(rest, theirs.vectors) for rest in ours.all_but_a_group(random)],
        [_distance(ours.vectors, rest) for rest in theirs.all_but_a_group(random)],
    ]
    error = float(np.sqrt(sum((len(part) - 1) * np.var(part) for part in parts)))
    half_width = student_975(min(map(len, parts)) - 1) * error
    return Frechet(
        distance=_distance(ours.vectors, theirs.vectors),
        between=float(np.mean(between)),
        floor=float(np.mean(floors)),
        floor_range=(min(floors), max(floors)),
        excess=excess,
        standard_error=error,
        confidence_95=(excess - half_width, excess + half_width),
        dimensions=samples.shape[1],
        sequences=size,
        given=given,
        seed=seed,
    )


class _Vectors(NamedTuple):
    """Vectors of a set, of each the number of its unit, from 0, and how many units there are."""

    vectors: Float[ndarray, "n d"]
    unit: Int64[ndarray, " n"]
    n_units: int

    @classmethod
    def of(cls, name: str, vectors: ndarray, numbers: ndarray) -> "_Vectors":
        names, unit = np.unique(numbers, return_inverse=True)
        if len(names) < _FEWEST_UNITS:
            raise UserError(
                f"{len(vectors)} sequences of {len(names)} records of the {name} cannot tell how "
                f"much their embeddings vary; give sequences of {_FEWEST_UNITS} records or more."
            )
        return cls(vectors.astype(np.float64), unit, len(names))

    def halves(
        self, random: np.random.Generator
    ) -> tuple[Float[ndarray, "h d"], Float[ndarray, "g d"]]:
        """Vectors of half of the units, and of the others."""
        is_first = (random.permutation(self.n_units) < self.n_units // 2)[self.unit]
        return self.vectors[is_first], self.vectors[~is_first]

    def all_but_a_group(self, random: np.random.Generator) -> list[Float[ndarray, "_ d"]]:
        """The vectors without those of each group of units."""
        groups = min(_GROUPS, self.n_units)
        group = (random.permutation(self.n_units) % groups)[self.unit]
        return [self.vectors[group != each] for each in range(groups)]


def _distance(a: Float[ndarray, "n d"], b: Float[ndarray, "m d"]) -> float:
    return frechet_distance(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def _covariance(vectors: Float[ndarray, "n d"]) -> Float[ndarray, "d d"]:
    return np.cov(vectors, rowvar=False).reshape(vectors.shape[1], -1)
