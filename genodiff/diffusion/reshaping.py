"""Changes of what a network says before tokens are drawn from it: temperature and nucleus.

They act on log p(x_0), before the process makes transitions of it: so the times at which masks are
revealed stay as they are. The same functions serve a left-to-right model's log p(x_i | x_<i).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genodiff.diffusion.denoiser import Denoiser, require_own_transition
from genodiff.diffusion.process import LOG_ZERO
from genodiff.errors import UserError

_ROUNDING = 1e-6
"""Of sums of probabilities in float32: tokens that reach p to within it have reached it."""

Reshape = Callable[[Tensor], Tensor]
"""Log-probabilities (..., k) -> log-probabilities, normalised."""


@dataclass(frozen=True)
class Temperature:
    """p^(1/temperature), normalised: below 1 sharper, above 1 flatter, at 0 the likeliest token
    (all of equally likely ones)."""

    temperature: float

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"temperature={self.temperature} must be 0 or more; use e.g. 0.8, or 1 for none."
            )

    def __call__(self, log_p: Float[Tensor, "*s k"]) -> Float[Tensor, "*s k"]:
        if self.temperature == 0:
            best = log_p == log_p.amax(-1, keepdim=True)
            return torch.where(best, 0.0, LOG_ZERO).to(log_p.dtype).log_softmax(-1)
        below_best = (log_p - log_p.amax(-1, keepdim=True)).double() / self.temperature
        possible = log_p > LOG_ZERO / 2  # at any temperature what is impossible stays so
        sharpened = torch.where(possible, below_best, LOG_ZERO).log_softmax(-1)
        return sharpened.clamp(min=LOG_ZERO).to(log_p.dtype)


@dataclass(frozen=True)
class Nucleus:
    """The smallest set of likeliest tokens whose probabilities reach p, normalised.

    Holtzman et al. 2020 (arXiv:1904.09751). The token that crosses p is kept; much published code
    drops it.
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise UserError(
                f"nucleus={self.p} is a probability, in (0, 1]; use e.g. 0.9, or 1 for all tokens."
            )

    def __call__(self, log_p: Float[Tensor, "*s k"]) -> Float[Tensor, "*s k"]:
        if self.p == 1:
            return log_p
        sorted_, order = log_p.double().sort(dim=-1, descending=True, stable=True)
        before = sorted_.exp().cumsum(-1) - sorted_.exp()
        # Before the likeliest is nothing, exactly: it is kept however small p is.
        kept = torch.zeros_like(log_p, dtype=torch.bool).scatter(
            -1, order, before <= max(self.p - _ROUNDING, 0.0)
        )
        return torch.where(kept, log_p, LOG_ZERO).log_softmax(-1).clamp(min=LOG_ZERO)


class Reshaped(Denoiser):
    """The wrapped denoiser with its log p(x_0) reshaped, by one after the other of `reshapes`."""

    def __init__(self, denoiser: Denoiser, *reshapes: Reshape) -> None:
        super().__init__()
        require_own_transition(denoiser, "Reshaped")
        self.denoiser = denoiser
        self.reshapes = reshapes
        self.process = denoiser.process
        self.time_conditioning = denoiser.time_conditioning

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def given(self, x0: Int[Tensor, "b l"]) -> Denoiser:
        return Reshaped(self.denoiser.given(x0), *self.reshapes)

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self._reshape(self.denoiser.log_x0(x_t, t, condition))

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        return self._reshape(self.denoiser.log_x0_at(x_t, t, where, condition))

    def _reshape(self, log_p: Tensor) -> Tensor:
        for reshape in self.reshapes:
            log_p = reshape(log_p)
        return log_p
