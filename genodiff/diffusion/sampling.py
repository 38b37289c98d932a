"""Samplers: from noise to tokens, by way of a denoiser.

A sampler restores the noise of x, (b, l): all of it to generate, a part of it to infill. Positions
in `frozen` come back as they were given. x is not changed in place; the generator lives on the
device of x.

Here are those that walk the reverse chain on a grid of times; `revealing` has those that reveal
masks and do not touch them again.
"""

import abc
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion import categorical
from genodiff.diffusion.denoiser import Denoiser, Tweedie, cached
from genodiff.diffusion.plan import open_masks, plan_of_steps, reveal
from genodiff.diffusion.process import absorbing
from genodiff.errors import UserError


class Sampler(abc.ABC):
    """(denoiser, tokens with masks) -> tokens."""

    @final
    @torch.no_grad()
    def __call__(
        self,
        denoiser: Any,
        x: Int[Tensor, "b l"],
        *,
        frozen: Bool[Tensor, "b l"] | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "b l"]:
        """Samples, on the device of x. Raises UserError if a mask is frozen."""
        left = 0 if frozen is None else int((frozen & self.masked(denoiser, x)).sum())
        if left:
            raise UserError(
                f"{left} of the frozen tokens are masks, and would still be masks in the end; "
                "freeze tokens that are given."
            )
        return self.restore(denoiser, x, frozen, generator)

    @abc.abstractmethod
    def restore(
        self,
        denoiser: Any,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        """What the call does. For samplers that are made of samplers: masks may be frozen, and
        stay."""

    def masked(self, denoiser: Any, x: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """The tokens that no sample should hold."""
        return denoiser.process.is_masked(x)


@dataclass(frozen=True)
class Stepwise(Sampler):
    """Steps through the transitions p(x_s | x_t) on an even grid from t=1 to `t_end`, all rows in
    step, for any process and any denoiser.

    Where the network is not told the time, rows in which nothing changed are not evaluated again.
    `final` says what becomes of the noise left at t_end (none with t_end=0 and alpha(0)=1): "draw"
    draws masks from p(x_0 | x_t); "none" leaves them; "argmax" takes the most probable x_0 at
    every position, which is greedy and distorts the samples, but is MDLM's noise removal (with
    t_end=1e-5).
    """

    steps: int
    t_end: float = 0.0
    final: Literal["draw", "none", "argmax"] = "draw"
    draw: categorical.Draw = categorical.draw

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.t_end < 1:
            raise UserError(
                f"t_end={self.t_end}: sampling goes from t=1 to t_end in [0, 1); use t_end=0.0."
            )
        if self.final not in ("draw", "none", "argmax"):
            raise UserError(f"final={self.final!r} is not one of 'draw', 'none', 'argmax'.")

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        denoiser = cached(denoiser)
        frozen = torch.zeros_like(x, dtype=torch.bool) if frozen is None else frozen
        times = even_times(self.steps, self.t_end, x.device)[:, None, None].expand(-1, len(x), 1)
        x_t = x
        for t, s in pairwise(times):
            drawn = self.draw(denoiser.log_transition(x_t, t, s), generator)
            x_t = torch.where(frozen, x, drawn)
        return torch.where(frozen, x, self._finish(denoiser, x_t, times[-1], frozen, generator))

    def _finish(
        self,
        denoiser: Denoiser,
        x_t: Int[Tensor, "b l"],
        t: Tensor,
        frozen: Bool[Tensor, "b l"],
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        if self.final == "argmax":
            return denoiser.log_x0(x_t, t).argmax(-1)
        left = denoiser.process.is_masked(x_t) & ~frozen
        if self.final == "none" or not bool(left.any()):
            return x_t
        drawn = denoiser.propose_at(x_t, t, left).draw(None, generator, self.draw)
        return x_t.masked_scatter(left, drawn)


@dataclass(frozen=True)
class Ancestral(Stepwise):
    """Ancestral sampling (Sahoo et al. 2024, arXiv:2406.07524): the law of `Stepwise`, for less.

    Where the times of reveals have nothing to do with the network, those of all masks are drawn
    beforehand, and each row visits its own non-empty steps alone: at most as many network
    evaluations as it has masks, however many the steps, and no row waits for another.
    """

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        if not denoiser.reveals_at_random or self.final == "argmax":
            return super().restore(denoiser, x, frozen, generator)
        process = absorbing(denoiser.process, "Ancestral")
        free = open_masks(process, x, frozen)
        times = even_times(self.steps, self.t_end, x.device)
        rates = process.schedule.mask_rate(times)
        u = torch.rand(x.shape, dtype=torch.float64, device=x.device, generator=generator)
        # Of the masks at t=1 those with u m(1) in (m(s), m(t)] go from t to s.
        step = self.steps - torch.searchsorted(rates.flip(0), u * rates[0])
        step = step.clamp(min=0)
        if self.final == "none":
            free = free & (step < self.steps)
        return reveal(denoiser, x, plan_of_steps(step, times, free), self.draw, generator)


@dataclass(frozen=True)
class Analytic(Sampler):
    """Steps by the concrete score (`Tweedie`), then draws what is left. Lou et al. 2024 (SEDD).

    For a denoiser that is not a score network this is `Stepwise`. It stops at t_end > 0, as
    published, and its first step needs a finite sigma(1).
    """

    steps: int
    t_end: float = 1e-5
    draw: categorical.Draw = categorical.draw

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 < self.t_end < 1:
            raise UserError(
                f"t_end={self.t_end}: the score diverges at t=0; use t_end in (0, 1), e.g. 1e-5."
            )

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        schedule = denoiser.process.schedule
        if not bool(schedule.sigma(torch.ones(1, dtype=torch.float64)).isfinite().all()):
            raise UserError(
                f"Analytic with {schedule}: sigma(1) is infinite; "
                "use a schedule with eps > 0, or Ancestral."
            )
        stepper = Stepwise(self.steps, t_end=self.t_end, draw=self.draw)
        return stepper.restore(Tweedie(denoiser), x, frozen, generator)


def even_times(steps: int, t_end: float, device: torch.device) -> Float[Tensor, " n"]:
    """steps + 1 times from 1 to t_end, float64."""
    return torch.linspace(1, t_end, steps + 1, dtype=torch.float64, device=device)


def check_steps(steps: int) -> None:
    """Raises UserError for fewer than one step."""
    if steps < 1:
        raise UserError(f"steps={steps}: sampling takes at least one step; use e.g. steps=128.")
