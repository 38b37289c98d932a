"""AdamW as the field uses it: decay only where it belongs, linear warm-up, cosine decay."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from genodiff.errors import UserError

_UNDECAYED_MODULES = (nn.Embedding, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class AdamWCosine:
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up and a cosine to `min_lr_ratio * lr`.

    Args:
        lr: the peak learning rate.
        betas: decay rates of the two moments.
        weight_decay: applied to matrices of linear maps and convolutions only (see `decays`).
        warmup_fraction: share of all steps in which the rate rises linearly from 0.
        min_lr_ratio: the last rate as a share of the peak; 1 keeps it constant after the warm-up.
    """

    lr: float = 1e-3
    betas: Sequence[float] = (0.9, 0.95)
    weight_decay: float = 0.1
    eps: float = 1e-8
    warmup_fraction: float = 0.05
    min_lr_ratio: float = 0.05

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optimizer.lr={self.lr} must be positive.")
        if self.weight_decay < 0:
            raise UserError(f"optimizer.weight_decay={self.weight_decay} must not be negative.")
        if self.eps <= 0:
            raise UserError(f"optimizer.eps={self.eps} must be positive.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1).")
        for name in ("warmup_fraction", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"optimizer.{name}={getattr(self, name)} must be in [0, 1].")

    def build(self, module: nn.Module, max_steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimizer of `module`'s trainable parameters and its per-step schedule."""
        decayed, kept = [], []
        for parameter, decay in decays(module):
            (decayed if decay else kept).append(parameter)
        optimizer = AdamW(
            [
                {"params": decayed, "weight_decay": self.weight_decay},
                {"params": kept, "weight_decay": 0.0},
            ],
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
        )
        return optimizer, LambdaLR(optimizer, lambda step: self.rate(step, max_steps))

    def rate(self, step: int, max_steps: int) -> float:
        """Learning rate of optimizer step `step` (from 0) as a share of the peak."""
        warmup = round(self.warmup_fraction * max_steps)
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2


def decays(module: nn.Module) -> list[tuple[nn.Parameter, bool]]:
    """Every trainable parameter once, with whether weight decay applies to it.

    Free of decay: biases and other vectors, norms, embeddings (also where tied to the head), and
    whatever a module marks with `_no_weight_decay` (Mamba's A_log and D, Gu & Dao 2023).
    """
    found: dict[nn.Parameter, bool] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            free = (
                isinstance(part, _UNDECAYED_MODULES)
                or parameter.ndim < 2
                or getattr(parameter, "_no_weight_decay", False)
            )
            # A tied parameter is met once a module; one that frees it is enough.
            found[parameter] = found.get(parameter, True) and not free
    return list(found.items())
