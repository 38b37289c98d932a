"""MAUVE: how much of the law of some texts lies within that of others, by their embeddings.

Pillutla et al. 2021 (arXiv:2102.01454) and 2023 (arXiv:2212.14578). The vectors of both sets are
put into buckets together, by k-means; P and Q are the shares of each set in the buckets. With
R = w P + (1 - w) Q, the points (exp(-c KL(Q|R)), exp(-c KL(P|R))) for w in (0, 1) are a curve from
(1, 0) to (0, 1), and MAUVE is the area below it: 1 if P = Q, and 1 / binomial(2c, c) if they have
no bucket in common (1/252 with c = 5).

It depends on the number of texts and of buckets. Of few texts even two sets of one law are far
from 1: compare sets of equal size, beside a yardstick of real texts.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.text_statistics import Measure, measure

_TEXTS_PER_BUCKET = 10
_EXPLAINED = 0.9  # of the variance, by the principal components that are kept
_RESTARTS = 5
_ITERATIONS = 500


class Mauve(NamedTuple):
    """The mean over k-means from several seeds, with the error of drawing other texts, and the
    least and the greatest over the seeds."""

    area: Measure
    range_over_seeds: tuple[float, float]
    seeds: int
    buckets: int

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            **self.area.summary(),
            "range_over_seeds": list(self.range_over_seeds),
            "seeds": self.seeds,
            "buckets": self.buckets,
        }


def mauve(
    samples: Float[ndarray, "n d"],
    reference: Float[ndarray, "m d"],
    *,
    seeds: int = 5,
    resamples: int = 200,
    seed: int = 0,
) -> Mauve:
    """MAUVE of two sets of embeddings, as published: vectors of length 1, the principal components
    that explain 90 % of their variance, a tenth as many buckets as texts in the smaller set, the
    best of 5 k-means, c = 5, 25 points of the curve.

    The error is by the bootstrap over the texts of both sets, with the buckets as they are.

    Args:
        seeds: k-means is done from so many.
        resamples: of the bootstrap, for each of them.

    Raises:
        UserError: fewer than 20 texts in a set, or scikit-learn is missing.
    """
    buckets = number_of_buckets(min(len(samples), len(reference)))
    points = _reduced(np.concatenate([samples, reference]))
    random = np.random.default_rng(seed)
    areas, deviations = [], []
    for labels in _clustered(points, buckets, random.integers(2**31, size=seeds).tolist()):
        p, q = (
            np.bincount(part, minlength=buckets) / len(part)
            for part in np.split(labels, [len(samples)])
        )
        areas.append(area_of_histograms(p, q))
        again = area_of_histograms(
            random.multinomial(len(samples), p, resamples) / len(samples),
            random.multinomial(len(reference), q, resamples) / len(reference),
        )
        deviations.append(again.std(ddof=1))
    n_texts = min(len(samples), len(reference))
    area = measure(float(np.mean(areas)), float(np.mean(deviations)), n_texts)
    low, high = np.clip(area.confidence_95 or (0.0, 1.0), 0, 1).tolist()
    extremes = (float(np.min(areas)), float(np.max(areas)))
    return Mauve(area._replace(confidence_95=(low, high)), extremes, seeds, buckets)


def area_of_histograms(
    p: Float[ndarray, "*s k"],
    q: Float[ndarray, "*s k"],
    *,
    scale: float = 5.0,
    points: int = 25,
) -> Float[ndarray, "*s"]:
    """The area below the divergence curve of two histograms whose shares sum to 1.

    Args:
        scale: c, by which divergences in nats are multiplied.
        points: values of w from 1e-6 to 1 - 1e-6, equally far apart.
    """
    w = np.linspace(1e-6, 1 - 1e-6, points)[:, None]
    p, q = p[..., None, :], q[..., None, :]
    middle = w * p + (1 - w) * q
    ends = np.zeros((*middle.shape[:-2], 1))
    x = np.concatenate([ends + 1, np.exp(-scale * _divergence(q, middle)), ends], -1)
    y = np.concatenate([ends, np.exp(-scale * _divergence(p, middle)), ends + 1], -1)
    return np.asarray(((x[..., :-1] - x[..., 1:]) * (y[..., :-1] + y[..., 1:])).sum(-1) / 2)


def number_of_buckets(n_texts: int) -> int:
    """A tenth as many, rounded as published. Raises UserError for fewer than 20 texts."""
    if n_texts < 2 * _TEXTS_PER_BUCKET:
        raise UserError(
            f"{n_texts} sequences are too few for MAUVE, which counts them in buckets of about "
            f"ten; give {2 * _TEXTS_PER_BUCKET} or more of the samples and of the reference, "
            "thousands for a figure that others can compare with."
        )
    return round(n_texts / _TEXTS_PER_BUCKET)


def _divergence(p: Float[ndarray, "*s k"], middle: Float[ndarray, "*t k"]) -> Float[ndarray, "*t"]:
    """KL(p | middle) in nats; middle > 0 where p > 0."""
    ratio = np.where(p > 0, p, 1) / np.where(p > 0, middle, 1)
    return (p * np.log(ratio)).sum(-1)


def _reduced(vectors: Float[ndarray, "n d"]) -> Float[ndarray, "n e"]:
    """Unit vectors by those principal components that explain 90 % of their variance."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    rotated, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    share = np.cumsum(lengths**2) / max((lengths**2).sum(), np.finfo(float).tiny)
    kept = int(np.searchsorted(share, _EXPLAINED)) + 1
    return (rotated * lengths)[:, :kept]


def _clustered(
    points: Float[ndarray, "n e"], buckets: int, seeds: list[int]
) -> list[Int[ndarray, " n"]]:
    """The bucket of each point, for k-means from each seed."""
    require_sklearn()
    from sklearn.cluster import KMeans

    # Texts that are alike are one point but for rounding, and no more buckets than points exist.
    points = points.round(6)
    clusters = min(buckets, len(np.unique(points, axis=0)))
    settings: Any = {"n_init": _RESTARTS, "max_iter": _ITERATIONS}  # whose stubs know no integer
    return [
        KMeans(clusters, random_state=seed, **settings).fit_predict(points).astype(np.int64)
        for seed in seeds
    ]


def require_sklearn() -> None:
    """Raises UserError where scikit-learn is missing: for tasks that need it only at their end."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(
            "MAUVE needs the scikit-learn package; install it with pip install 'genodiff[text]'."
        ) from error
