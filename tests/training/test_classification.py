"""Classifiers are trained by the module that trains everything else."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from genodiff.backbones import Caduceus, SequenceClassifier
from genodiff.data import DnaTokenizer, LabelledSequences, LabelledWindows, SequenceData
from genodiff.evaluation.classification import predict
from genodiff.ranks import Ranks
from genodiff.training import (
    AdamWCosine,
    Classification,
    GenerativeModule,
    Plan,
    Regression,
    Score,
    Standardised,
    fit,
    read_checkpoint,
    read_metrics,
)

DNA = DnaTokenizer()


def by_composition(n: int, seed: int) -> LabelledSequences:
    """Of 9 to 16 bases; class 1 has more G and C than A and T."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(7, 11, int(rng.integers(9, 17))) for _ in range(n)]
    labels = [int(2 * np.isin(row, (8, 9)).sum() > len(row)) for row in rows]
    return LabelledSequences.of(rows, labels)


def test_the_loss_is_the_cross_entropy_of_the_labels() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([2, 0, 1, 1])
    nats = Classification()(lambda x: logits, labels[:, None], generator=None, condition=labels)
    expected = [
        math.log(sum(math.exp(z) for z in row)) - float(row[label])
        for row, label in zip(logits, labels, strict=True)
    ]
    assert nats.shape == (4, 1)
    assert nats[:, 0].tolist() == pytest.approx(expected, rel=1e-6)


def test_labels_are_needed() -> None:
    for objective in (Classification(), Regression(1.0)):
        with pytest.raises(ValueError, match="without labels"):
            objective(lambda x: x.float(), torch.zeros(1, 1, dtype=torch.int64), generator=None)


def test_the_loss_of_numbers_is_their_squared_error_in_units() -> None:
    labels = torch.tensor([1.0, -2.0], dtype=torch.float64)
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    nats = Regression(2.0)(
        lambda x: torch.tensor([[2.0], [2.0]]), tokens, generator=None, condition=labels
    )
    assert nats.tolist() == [[0.25], [4.0]]


def test_standardised_numbers_are_in_the_units_of_the_labels() -> None:
    network = torch.nn.EmbeddingBag(6, 1)
    wrapped = Standardised(network, 10.0, 5.0)
    tokens = torch.tensor([[1, 2, 3], [5, 0, 0]])
    assert torch.equal(wrapped(tokens), 10 + 5 * network(tokens))
    assert wrapped.state_dict().keys() >= {"mean", "unit"}
    assert len(list(wrapped.parameters())) == 1


def test_a_classifier_learns_and_its_best_weights_are_the_most_accurate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train, valid = (
        LabelledWindows(by_composition(n, seed), DNA, 16, strand="random")
        for n, seed in ((256, 1), (128, 2))
    )
    data = SequenceData(train, valid, None, DNA, length=16, batch_size=32)  # type: ignore[arg-type]
    model = SequenceClassifier(Caduceus(DNA.vocab_size, 16, 1), 2, pad_id=DNA.pad_id)
    module = GenerativeModule(
        model,
        Classification(),
        optimizer=AdamWCosine(lr=1e-2),
        max_steps=60,
        ema_decay=0.0,
    )

    def score(it: torch.nn.Module, ranks: Ranks) -> Score:
        found = predict(it, [data.eval_loader("valid")], ranks=ranks)
        assert len(found.labels) == 128
        return Score(float(found.nats.mean()), 0.0, found.accuracy)

    def loader(first: int) -> DataLoader:
        return data.train_loader(first)

    plan = Plan(60, ema_decay=0.0, validate_every=20, log_every=20)
    device = torch.device("cpu")
    fit(module, loader, plan, tmp_path, score=score, draw=lambda _: "", device=device)
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if row["split"] == "valid"]
    accuracies = [row["accuracy"] for row in rows]
    assert len(accuracies) == 3 and max(accuracies) > 0.9
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] == rows[accuracies.index(max(accuracies))]["step"]
