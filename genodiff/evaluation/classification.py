"""What a classifier, or a regression, says of labelled sequences."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray
from torch import nn
from torch.nn import functional as F

from genodiff.batch import TokenBatch
from genodiff.errors import UserError
from genodiff.evaluation.borrowed import borrowed
from genodiff.evaluation.metrics import are_numbers
from genodiff.ranks import ALONE, Ranks


class Predictions(NamedTuple):
    """Logits of n sequences, and their labels: classes. Or, where labels are numbers, one number
    for each sequence in the place of logits."""

    logits: Float[ndarray, "n c"]
    labels: Int64[ndarray, " n"] | Float64[ndarray, " n"]

    @property
    def told(self) -> Shaped[ndarray, " n"]:
        """The number, or the class with the highest logit; of equal ones the first."""
        return self.logits[:, 0] if are_numbers(self.labels) else self.logits.argmax(-1)

    @property
    def is_right(self) -> Bool[ndarray, " n"]:
        """Whether the class is that of the label."""
        return self.told == self.labels

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return float(self.is_right.mean())

    @property
    def nats(self) -> Float[ndarray, " n"]:
        """-log p of each label; of numbers the squared error."""
        if are_numbers(self.labels):
            return (self.told - self.labels) ** 2
        logits, labels = torch.from_numpy(self.logits), torch.from_numpy(self.labels)
        return F.cross_entropy(logits, labels, reduction="none").numpy()


def predict(
    classifier: nn.Module,
    readings: Sequence[Iterable[TokenBatch]],
    *,
    device: torch.device | str | None = None,
    ranks: Ranks = ALONE,
) -> Predictions:
    """The mean of the logits of some readings of the same sequences, such as both strands.

    Args:
        classifier: tokens (b, l) to logits (b, c); given back in the mode and on the device it
            came in.
        readings: batches of labelled sequences, the same ones in the same order in each.
        device: where to classify; None is where the classifier is.
        ranks: of the processes that share the batches; each has the whole result.

    Raises:
        UserError: there is nothing to classify, or the classifier gives no finite number.
    """
    logits, labels = [], np.zeros(0, np.int64)
    with borrowed(classifier, device) as here:
        for batches in readings:
            mine = islice(batches, ranks.rank, None, ranks.size)  # one at a time in memory
            parts = [
                (classifier(batch.tokens.to(here)).double().cpu().numpy(), batch.labels)
                for batch in mine
            ]
            parts = ranks.together(parts)
            if not parts:
                raise UserError("there is nothing to classify; give at least one sequence.")
            logits.append(np.concatenate([part for part, _ in parts]))
            labels = np.concatenate([np.asarray(part) for _, part in parts])
    mean = np.mean(logits, 0)
    if not np.isfinite(mean).all():
        raise UserError(
            "the classifier gives logits that are not finite: its weights are damaged or training "
            "diverged; use another checkpoint, or a lower optimizer.lr."
        )
    return Predictions(mean, labels)
