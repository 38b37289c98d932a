"""Predictions of classifiers: readings averaged, accuracy, likelihood of the labels."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genodiff.batch import TokenBatch
from genodiff.errors import UserError
from genodiff.evaluation.classification import Predictions, predict
from genodiff.ranks import Ranks


class Table(nn.Module):
    """Logits by the first token."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, tokens: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        return self.logits[tokens[:, 0]]


def batches(tokens: list[int], labels: list[int], size: int) -> list[TokenBatch]:
    pairs = zip(
        torch.tensor(tokens)[:, None].split(size), torch.tensor(labels).split(size), strict=True
    )
    return [TokenBatch(x, torch.ones(len(x), 1), y) for x, y in pairs]


TABLE = Table([[0.0, 1.0], [2.0, 0.0], [0.5, 0.5]])
LABELS = [1, 1, 0, 0, 1]


def test_logits_of_readings_are_averaged() -> None:
    readings = [batches([0, 1, 2, 1, 0], LABELS, 2), batches([1, 1, 1, 2, 0], LABELS, 2)]
    found = predict(TABLE.train(), readings)
    assert TABLE.training
    expected = [[1.0, 0.5], [2.0, 0.0], [1.25, 0.25], [1.25, 0.25], [0.0, 1.0]]
    assert found.logits.tolist() == expected
    assert found.labels.tolist() == LABELS
    assert found.is_right.tolist() == [False, False, True, True, True]
    assert found.accuracy == 0.6
    p = [np.exp(row[y]) / np.exp(row).sum() for row, y in zip(expected, LABELS, strict=True)]
    assert found.nats.tolist() == pytest.approx(-np.log(p), rel=1e-12)


def test_of_equal_logits_the_first_class_is_taken() -> None:
    assert Predictions(np.array([[0.5, 0.5]] * 2), np.array([0, 1])).accuracy == 0.5


def test_ranks_classify_their_batches_and_have_all(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [batches([0, 1, 2, 1, 0], LABELS, 2)]
    whole = predict(TABLE, readings)
    both: list[list[object]] = []
    for rank in range(2):
        part = Ranks(rank, 2)
        monkeypatch.setattr(Ranks, "together", lambda _, mine: both.append(mine) or mine)
        predict(TABLE, readings, ranks=part)
    assert [len(mine) for mine in both] == [2, 1]
    monkeypatch.setattr(Ranks, "together", lambda _, mine: [both[0][0], both[1][0], both[0][1]])
    again = predict(TABLE, readings, ranks=Ranks(0, 2))
    assert np.array_equal(again.logits, whole.logits)
    assert np.array_equal(again.labels, whole.labels)


def test_what_cannot_be_classified_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to classify"):
        predict(TABLE, [[]])
    with pytest.raises(UserError, match="not finite"):
        predict(Table([[0.0, float("nan")]]), [batches([0], [0], 1)])


def test_of_numbers_one_output_is_the_number() -> None:
    found = Predictions(np.array([[0.5], [2.0], [-1.0]]), np.array([1.0, 2.0, 1.0]))
    assert found.told.tolist() == [0.5, 2.0, -1.0]
    assert found.nats.tolist() == [0.25, 0.0, 4.0]
