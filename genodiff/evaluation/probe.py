"""What a network's features say of a class without training the network: a linear probe."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from genodiff.errors import UserError

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, from the strongest penalty down
_ITERATIONS = 300
_UNHEARD = 30.0


class Features(NamedTuple):
    """Vectors of n sequences, and their labels."""

    vectors: Float[ndarray, "n d"]
    labels: Int64[ndarray, " n"]


class Probe(NamedTuple):
    """Logits of the sequences that choose the penalty and of those that test it, and the penalty
    (scikit-learn's C)."""

    valid: Float[ndarray, "v c"]
    test: Float[ndarray, "w c"]
    penalty: float


def linear_probe(train: Features, valid: Features, test: Features) -> Probe:
    """Logistic regression on features, standardised on `train`; the penalty is the one that tells
    most of `valid` right, the strongest of equal ones.

    Raises:
        UserError: scikit-learn is not installed, or all of `train` is of one class.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            "scikit-learn is not installed, and a probe is fitted with it; run pip install "
            "'genodiff[downstream]'."
        ) from error
    mean, sd = train.vectors.mean(0), train.vectors.std(0)
    x, x_valid, x_test = (
        (f.vectors - mean) / np.where(sd > 0, sd, 1) for f in (train, valid, test)
    )
    n_classes = 1 + max(int(part.labels.max()) for part in (train, valid, test))
    if len(np.unique(train.labels)) < 2:
        raise UserError(
            "a probe tells classes apart, and all sequences that train it are of one; give more "
            "sequences, or another split."
        )
    best, found = -1.0, None
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=_ITERATIONS)
        with warnings.catch_warnings():  # an optimum not quite reached is a penalty a bit stronger
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, train.labels)
        logits = _logits(model, x_valid, n_classes)
        accuracy = float((logits.argmax(-1) == valid.labels).mean())
        if accuracy > best:
            best, found = accuracy, Probe(logits, _logits(model, x_test, n_classes), penalty)
    assert found is not None
    return found


def _logits(model: Any, x: Float[ndarray, "n d"], n_classes: int) -> Float[ndarray, "n c"]:
    """Of every class, also where scikit-learn gives one number for two, and far below the others
    for a class that training has none of."""
    scores: ndarray = model.decision_function(x)
    if scores.ndim == 1:
        scores = np.stack([-scores / 2, scores / 2], -1)
    logits = np.full((len(x), n_classes), scores.min(initial=0.0) - _UNHEARD)
    logits[:, model.classes_] = scores
    return logits
