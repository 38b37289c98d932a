"""Exponential moving average of parameters: the weights that are evaluated and sampled from."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genodiff.errors import UserError
from genodiff.training.sharding import share_like


class ExponentialMovingAverage:
    """average <- d average + (1 - d) parameter after every optimizer step.

    With `warmup` d = min(decay, (1 + n) / (10 + n)) at the n-th update, from n = 1, so that early
    averages forget the initial weights (published code of Sahoo et al. 2024). Frozen parameters
    are left out. Averages are at least float32.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], decay: float = 0.9999, warmup: bool = True
    ) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema decay={decay}: a decay is in [0, 1); use e.g. 0.9999.")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._parameters = [p for p in parameters if p.requires_grad]
        self._averages = [_at_least_float32(p.detach()).clone() for p in self._parameters]

    def next_decay(self) -> float:
        """The decay that the next update will use."""
        n = self.updates + 1
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters' present values into the averages."""
        weight = 1 - self.next_decay()
        self.updates += 1
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(parameter.detach().to(average.dtype), weight)

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        """Goes on with the same parameters on another device, or with shares of them."""
        self._parameters = [p for p in parameters if p.requires_grad]
        pairs = zip(self._averages, self._parameters, strict=True)
        self._averages = [share_like(average, parameter) for average, parameter in pairs]

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Within the block the parameters hold their averages, afterwards their own values."""
        own = [p.detach().clone() for p in self._parameters]
        self._assign(self._averages)
        try:
            yield
        finally:
            self._assign(own)

    def state_dict(self) -> dict[str, Any]:
        """`updates` so far and `shadow`, the averages in the order of the trained parameters: as
        torch's own, no copies of them, and shares where they are cut."""
        return {"updates": self.updates, "shadow": list(self._averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state; raises UserError if it is that of other parameters."""
        averages: list[Tensor] = state["shadow"]
        found, expected = ([tuple(a.shape) for a in group] for group in (averages, self._averages))
        if found != expected:
            raise UserError(
                f"an EMA of {len(found)} tensors does not fit this model's {len(expected)} "
                "trained parameters or their shapes; resume with the configuration that wrote it."
            )
        self.updates = state["updates"]
        for own, average in zip(self._averages, averages, strict=True):
            own.copy_(average)

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
