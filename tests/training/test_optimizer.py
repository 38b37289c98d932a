"""AdamW with the right parameters free of decay, and the shape of its schedule."""

import pytest
import torch
from torch import nn

from genodiff.backbones import Caduceus
from genodiff.errors import UserError
from genodiff.training import AdamWCosine
from genodiff.training.optimizer import decays


def test_decay_applies_to_matrices_only() -> None:
    network = Caduceus(12, d_model=16, n_layers=1)
    names = {parameter: name for name, parameter in network.named_parameters()}
    decayed = {names[p] for p, decay in decays(network) if decay}
    free = {names[p] for p, decay in decays(network) if not decay}
    assert all(name.endswith("weight") for name in decayed)
    assert not any("norm" in name or "embedding" in name for name in decayed)
    assert any("A_log" in name for name in free) and any(name.endswith(".D") for name in free)
    assert any("in_proj" in name for name in decayed) and any(
        "out_proj" in name for name in decayed
    )
    assert len(decayed) + len(free) == len(names)


def test_a_tied_embedding_is_met_once_and_not_decayed() -> None:
    embedding, head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    assert decays(nn.ModuleList([head, embedding])) == [(embedding.weight, False)]


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    settings = AdamWCosine(warmup_fraction=0.1, min_lr_ratio=0.2)
    rates = torch.tensor([settings.rate(step, 100) for step in range(101)])
    assert torch.allclose(rates[:10], torch.arange(1, 11) / 10)
    assert rates[10] == 1 and abs(rates[100] - 0.2) < 1e-6
    assert abs(rates[55] - 0.6) < 1e-6  # half-way: the mean of 1 and 0.2
    assert (rates[10:].diff() <= 0).all()
    assert AdamWCosine(min_lr_ratio=1.0).rate(77, 100) == 1.0


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    optimizer, _ = AdamWCosine().build(layer, 10)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0.0}, "optimizer.lr=0.0 must be positive"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay=-0.1 must not be negative"),
        ({"eps": 0.0}, "optimizer.eps=0.0 must be positive"),
        ({"betas": (0.9, 1.0)}, r"optimizer.betas=\[0.9, 1.0\] must be two numbers"),
        ({"warmup_fraction": 2.0}, r"optimizer.warmup_fraction=2.0 must be in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdamWCosine(**setting)  # type: ignore[arg-type]  # betas is a pair, the rest numbers
