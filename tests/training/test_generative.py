"""`GenerativeModule`: the labels of its batches, and what it does before and after a step."""

from pathlib import Path

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from genodiff.backbones import DiMamba
from genodiff.batch import TokenBatch
from genodiff.diffusion import Absorbing, ExactlyK, LogLinear, NetworkDenoiser, Subs
from genodiff.training import AdamWCosine, DivergedError, GenerativeModule
from tests.training import tiny


def take_steps(module: GenerativeModule, batches: list[TokenBatch]) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=len(batches),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: DataLoader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is a data set
    trainer.fit(module, loader)


def test_a_model_with_classes_learns_what_each_is_made_of() -> None:
    # Sequences of class i are all of letter i: only the label tells a masked one apart.
    torch.manual_seed(0)
    network = DiMamba(4, 16, 1, d_state=4, cond_dim=16, n_classes=3, dropout=0.0)
    process = Absorbing(LogLinear(), 4, mask_id=3)
    model = NetworkDenoiser(network, process, Subs(4, mask_id=3))
    optimizer = AdamWCosine(lr=0.03)
    module = GenerativeModule(model, ExactlyK(), optimizer=optimizer, max_steps=150)
    labels = torch.arange(12) % 3
    take_steps(module, [TokenBatch(labels[:, None].repeat(1, 6), torch.ones(12, 6), labels)] * 150)
    model.eval()
    masked = process.prior((3, 6))
    with torch.no_grad():
        p = model.log_x0(masked, torch.ones(3, 1), torch.arange(3)).exp()
    assert float(p[torch.arange(3), :, torch.arange(3)].min()) > 0.9


def test_a_batch_without_labels_tells_the_network_nothing() -> None:
    tokens = torch.zeros(2, tiny.LENGTH, dtype=torch.long)
    batch = TokenBatch(tokens, torch.ones(2, tiny.LENGTH))
    take_steps(tiny.module(max_steps=1), [batch])  # its network takes no condition


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    """The loss is finite, and the weights stay what they were."""

    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # one gradient
            return gradient * torch.inf

    class Network(tiny.Network):
        def forward(self, tokens: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
            return Overflowing.apply(super().forward(tokens, sigma))

    module = tiny.module(max_steps=2)
    module.model.network = Network()
    before = [p.clone() for p in module.model.parameters()]
    batch = TokenBatch(torch.arange(24).reshape(2, 12) % tiny.MASK, torch.ones(2, 12))
    with pytest.raises(DivergedError, match="step 1: the gradient's norm is nan") as caught:
        take_steps(module, [batch])
    assert caught.value.step == 0 and caught.value.rows in ([0], [1])
    for parameter, value in zip(module.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_the_rows_to_blame_are_those_without_a_finite_loss(tmp_path: Path) -> None:
    weights = torch.ones(4, tiny.LENGTH)
    weights[2, 5] = torch.inf
    batch = TokenBatch(torch.zeros(4, tiny.LENGTH, dtype=torch.long), weights)
    with pytest.raises(DivergedError, match="the loss is") as caught:
        take_steps(tiny.module(max_steps=1, micro_batch=3), [batch])
    assert caught.value.rows == [2]


def test_parameters_that_no_row_reaches_have_gradient_zero() -> None:
    module = tiny.module(max_steps=1)
    module.model.idle = nn.Parameter(torch.ones(3))
    module = GenerativeModule(
        module.model, module.objective, optimizer=module.settings, max_steps=1
    )
    batch = TokenBatch(torch.zeros(2, tiny.LENGTH, dtype=torch.long), torch.ones(2, tiny.LENGTH))
    take_steps(module, [batch])
    assert torch.equal(module.model.idle.grad, torch.zeros(3))  # type: ignore[arg-type]  # it has one
