"""Whether a classifier tells samples from real sequences.

Its area under the receiver operating characteristic (AUROC) is the probability that of a sample
and a real sequence, neither of which it was trained with, it gives the sample the higher score:
0.5 if they cannot be told apart, 1 if they always can. Both sets are brought to the same number by
leaving out sequences at random, and are dealt into folds with all sequences of a unit (a record of
a genome) in one; each fold is told by a classifier that has learned from the others.

The figure is the mean over folds. The variance in a fold is DeLong's (DeLong et al. 1988), over
units where they are given (Obuchowski 1997, without its term for units in both sets); as folds
share most of what they learn from, the variance of their mean is 1 / k + 1 / (k - 1) of that and
not 1 / k (Nadeau & Bengio 2003, "Inference for the generalization error"). The interval is
Wilson's (1927) of a share with that variance, so that it has a width at 0 and at 1 too.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int8, Int64
from numpy import ndarray
from torch import Tensor, nn

from genodiff.errors import UserError
from genodiff.evaluation.label_baselines import LENGTHS, require_sklearn
from genodiff.evaluation.metrics import ranks
from genodiff.evaluation.probe import Features, linear_probe
from genodiff.evaluation.uncertainty import ratio_standard_error, student_975
from genodiff.evaluation.words import codes_of, word_shares

Units = tuple[Iterable[int], Iterable[int]]
Classifier = Literal["k-mers", "convolutions", "features"]

_GRID = np.linspace(0, 1, 101)
_INNER_FOLDS = 5  # one of which chooses a penalty
_STEPS = 200
_BATCH = 32
_CHANNELS = 24
_LEARNING_RATE = 1e-2


class Discrimination(NamedTuple):
    """How well a classifier tells samples from real sequences.

    `auroc` with `folds`, its value in each; `curve` (101,): which share of the samples is told
    where 0, 1, ..., 100 % of the real sequences are taken for samples, mean over folds.
    `sequences`: of each set; `given`: how many there were, of (samples, real).
    """

    classifier: Classifier
    auroc: float
    standard_error: float
    confidence_95: tuple[float, float]
    folds: tuple[float, ...]
    curve: Float[ndarray, " 101"]
    sequences: int
    given: tuple[int, int]
    seed: int

    def summary(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "classifier": self.classifier,
            "auroc": self.auroc,
            "standard_error": self.standard_error,
            "confidence_95": list(self.confidence_95),
            "folds": list(self.folds),
            "curve": self.curve.tolist(),
            "sequences_each": self.sequences,
            "sequences_given": list(self.given),
            "seed": self.seed,
        }


def kmer_discriminator(
    samples: Sequence[str],
    real: Sequence[str],
    *,
    units: Units | None = None,
    folds: int = 5,
    limit: int = 1000,
    seed: int = 0,
) -> Discrimination:
    """Logistic regression on frequencies of words of 1 to 6 bases, both strands as one.

    Args:
        samples: of A, C, G, T and N in upper case.
        units: what repeats independently (the record that a sequence was cut from), one number a
            sequence, of (samples, real); sequences of one number stay in one fold, in both sets
            together. None: each sequence.
        folds: k.
        limit: sequences of each set that are used at most.
        seed: of what is left out, and of the folds.

    Raises:
        UserError: fewer units than folds in a set, or scikit-learn is missing.
    """
    task = _Task.of(samples, real, units, folds, limit, seed)
    features = word_shares(map(codes_of, task.chosen(samples, real)), LENGTHS)
    return task.told("k-mers", _by_regression(features, task, seed))


def feature_discriminator(
    samples: Float[ndarray, "n d"],
    real: Float[ndarray, "m d"],
    *,
    units: Units | None = None,
    folds: int = 5,
    limit: int = 1000,
    seed: int = 0,
) -> Discrimination:
    """Logistic regression on vectors of the sequences, e.g. a network's pooled states.

    The arguments are those of `kmer_discriminator`, and so are the errors.
    """
    task = _Task.of(samples, real, units, folds, limit, seed)
    features = np.concatenate([samples[task.rows[0]], real[task.rows[1]]])
    return task.told("features", _by_regression(features, task, seed))


def cnn_discriminator(
    samples: Sequence[str],
    real: Sequence[str],
    *,
    units: Units | None = None,
    folds: int = 5,
    limit: int = 1000,
    seed: int = 0,
) -> Discrimination:
    """A network of two convolutions on one-hot letters of sequences of one length, which gives
    the mean over both strands; always trained alike.

    The arguments are those of `kmer_discriminator`, and so are the errors.

    Raises:
        UserError: sequences of different lengths.
    """
    task = _Task.of(samples, real, units, folds, limit, seed)
    chosen = task.chosen(samples, real)
    lengths = {len(sequence) for sequence in chosen}
    if len(lengths) > 1:
        raise UserError(
            f"sequences of {min(lengths)} to {max(lengths)} bases: the convolutional classifier "
            "would tell them by their lengths; cut them to one length."
        )
    codes = torch.from_numpy(np.stack([codes_of(sequence) for sequence in chosen]))
    labels = torch.from_numpy(task.labels)

    def scores(train: Int64[ndarray, " t"], test: Int64[ndarray, " v"]) -> Float[ndarray, " v"]:
        network = _trained(codes[train], labels[train], seed)
        with torch.no_grad():
            parts = [network(part) for part in codes[test].split(_BATCH)]
        return torch.cat(parts).double().numpy()

    return task.told("convolutions", scores)


def auroc(
    samples: Float[ndarray, " n"], real: Float[ndarray, " m"]
) -> tuple[float, Float[ndarray, " n"], Float[ndarray, " m"]]:
    """The share of pairs in which the sample has the higher score, equal ones counting half, and
    DeLong's components: of each sample the share of real sequences that it is above of, and of
    each real sequence that of samples above it."""
    n, m = len(samples), len(real)
    together = ranks(np.concatenate([samples, real]))
    above = (together[:n] - ranks(samples)) / m
    below = 1 - (together[n:] - ranks(real)) / n
    return float(above.mean()), above, below


class _Task(NamedTuple):
    """What is told apart: `rows`, numbers of as many samples as real sequences; of both together,
    samples first, `labels` (1 for samples) and `units`; and the numbers among them that each fold
    trains and tests with."""

    rows: tuple[Int64[ndarray, " s"], Int64[ndarray, " s"]]
    labels: Int64[ndarray, " n"]
    units: Int64[ndarray, " n"]
    folds: list[tuple[Int64[ndarray, " _"], Int64[ndarray, " _"]]]
    given: tuple[int, int]
    seed: int

    @classmethod
    def of(
        cls,
        samples: Sequence[Any] | ndarray,
        real: Sequence[Any] | ndarray,
        units: Units | None,
        folds: int,
        limit: int,
        seed: int,
    ) -> "_Task":
        require_sklearn("the discriminator", "report")
        given = (len(samples), len(real))
        random = np.random.default_rng(seed)
        size = min(limit, *given)
        rows = [np.sort(random.permutation(n)[:size]) for n in given]
        if units is None:
            numbers = [np.arange(size), np.arange(size) + size]
        else:
            numbers = [np.fromiter(u, np.int64)[r] for u, r in zip(units, rows, strict=True)]
        for name, each in zip(("samples", "real sequences"), numbers, strict=True):
            if len(np.unique(each)) < folds:
                raise UserError(
                    f"{size} {name} of {len(np.unique(each))} records cannot be dealt into "
                    f"{folds} folds; give sequences of {folds} records or more."
                )
        labels = np.repeat([1, 0], size)
        together = np.concatenate(numbers)
        dealt = _folds(labels, together, folds, seed)
        return cls((rows[0], rows[1]), labels, together, dealt, given, seed)

    def chosen(self, samples: Sequence[str], real: Sequence[str]) -> list[str]:
        own, others = self.rows
        return [samples[int(i)] for i in own] + [real[int(i)] for i in others]

    def told(
        self,
        classifier: Classifier,
        scores: Callable[[Int64[ndarray, " t"], Int64[ndarray, " v"]], Float[ndarray, " v"]],
    ) -> Discrimination:
        """By `scores` of what a fold tests, of a classifier of what it trains with."""
        areas, curves, components = [], [], np.zeros(len(self.labels))
        for train, test in self.folds:
            found, is_sample = scores(train, test), self.labels[test] == 1
            area, above, below = auroc(found[is_sample], found[~is_sample])
            components[test[is_sample]], components[test[~is_sample]] = above, below
            areas.append(area)
            curves.append(_curve(found, is_sample))
        errors, n_units = [], []
        for label in (1, 0):
            own = self.labels == label
            units = self.units[own].tolist()
            errors.append(ratio_standard_error(components[own], np.ones(own.sum()), units))
            n_units.append(len(set(units)))
        k, area = len(self.folds), float(np.mean(areas))
        error = float(np.hypot(*errors)) * math.sqrt(1 + k / (k - 1))
        return Discrimination(
            classifier,
            area,
            error,
            _wilson(area, error, min(n_units)),
            tuple(areas),
            np.mean(curves, axis=0),
            len(self.rows[0]),
            self.given,
            self.seed,
        )


def _folds(
    labels: Int64[ndarray, " n"], units: Int64[ndarray, " n"], k: int, seed: int
) -> list[tuple[Int64[ndarray, " _"], Int64[ndarray, " _"]]]:
    """What trains and what tests in each of k folds, with both sets in about equal shares."""
    from sklearn.model_selection import StratifiedGroupKFold

    dealer = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    return [(train, test) for train, test in dealer.split(labels, labels, units)]


def _by_regression(
    features: Float[ndarray, "n d"] | Float32[ndarray, "n d"], task: _Task, seed: int
) -> Callable[[Int64[ndarray, " t"], Int64[ndarray, " v"]], Float[ndarray, " v"]]:
    """Scores by logistic regression, whose penalty is chosen by a part of what trains."""

    def scores(train: Int64[ndarray, " t"], test: Int64[ndarray, " v"]) -> Float[ndarray, " v"]:
        fitted, chooses = _folds(task.labels[train], task.units[train], _INNER_FOLDS, seed)[0]
        parts = (
            Features(features[rows], task.labels[rows])
            for rows in (train[fitted], train[chooses], test)
        )
        logits = linear_probe(*parts).test
        return logits[:, 1] - logits[:, 0]

    return scores


def _curve(scores: Float[ndarray, " n"], is_sample: Bool[ndarray, " n"]) -> Float[ndarray, " 101"]:
    """The share of samples above each threshold, at 101 shares of real sequences above it."""
    steps, place = np.unique(-scores, return_inverse=True)
    tallies = [np.bincount(place[own], minlength=len(steps)) for own in (is_sample, ~is_sample)]
    told, mistaken = (np.concatenate([[0], np.cumsum(each)]) / each.sum() for each in tallies)
    return np.interp(_GRID, mistaken, told)


def _wilson(area: float, error: float, n_units: int) -> tuple[float, float]:
    """95 % interval of a share that n sequences would give this error; where there is none, as if
    the units were as many."""
    z = student_975(n_units - 1)
    n = area * (1 - area) / error**2 if error else n_units
    middle, half = area + z**2 / 2 / n, z * math.sqrt(area * (1 - area) / n + z**2 / 4 / n**2)
    return max((middle - half) / (1 + z**2 / n), 0.0), min((middle + half) / (1 + z**2 / n), 1.0)


class _Network(nn.Module):
    """Codes of letters (b, l), -1 for N, to a score; the mean over both strands."""

    def __init__(self) -> None:
        super().__init__()
        self.motifs = nn.Sequential(
            nn.Conv1d(4, _CHANNELS, 11, padding=5),
            nn.MaxPool1d(8, ceil_mode=True),
            nn.BatchNorm1d(_CHANNELS),
            nn.ReLU(),
        )
        self.arrangements = nn.Sequential(
            nn.Conv1d(_CHANNELS, _CHANNELS, 5, padding=2),
            nn.BatchNorm1d(_CHANNELS),
            nn.ReLU(),
        )
        self.score = nn.Sequential(nn.BatchNorm1d(2 * _CHANNELS), nn.Linear(2 * _CHANNELS, 1))

    def forward(self, codes: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        forward = (codes[:, None] == torch.arange(4)[:, None]).float()
        strands = torch.cat([forward, forward.flip(1, 2)])  # backwards, A C G T is its complement
        found = self.arrangements(self.motifs(strands))
        pooled = torch.cat([found.mean(-1), found.amax(-1)], -1)
        return self.score(pooled).reshape(2, -1).mean(0)


def _trained(codes: Int8[Tensor, "n l"], labels: Int64[Tensor, " n"], seed: int) -> _Network:
    """By Adam, in a fixed number of steps, the learning rate falling to 0 along half a cosine."""
    random = torch.Generator().manual_seed(seed)
    rounds = math.ceil(_STEPS * _BATCH / len(codes))
    order = torch.cat([torch.randperm(len(codes), generator=random) for _ in range(rounds)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network()
    optimizer = torch.optim.Adam(network.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for rows in order.split(_BATCH)[:_STEPS]:
        nats = nn.functional.binary_cross_entropy_with_logits(
            network(codes[rows]), labels[rows].float()
        )
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
        schedule.step()
    return network.eval()
