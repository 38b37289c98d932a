"""What a network's features say of a class without training the network: a linear probe."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from genodiff.errors import UserError

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, from the strongest penalty down
_ITERATIONS = 300


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
        UserError: scikit-learn is not installed.
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
    best, found = -1.0, None
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=_ITERATIONS)
        with warnings.catch_warnings():  # an optimum not quite reached is a penalty a bit stronger
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, train.labels)
        logits = _logits(model, x_valid)
        accuracy = float((logits.argmax(-1) == valid.labels).mean())
        if accuracy > best:
            best, found = accuracy, Probe(logits, _logits(model, x_test), penalty)
    assert found is not None
    return found


def _logits(model: object, x: Float[ndarray, "n d"]) -> Float[ndarray, "n c"]:
    """Of every class, also where scikit-learn gives one number for two."""
    scores: ndarray = model.decision_function(x)  # pyright: ignore[reportAttributeAccessIssue]
    return scores if scores.ndim == 2 else np.stack([-scores / 2, scores / 2], -1)
