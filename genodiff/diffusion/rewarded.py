"""Samples that a reward prefers: the best of several, or a population steered on the way.

A reward is any function of whole sequences, so it need know nothing of noise: a motif score, a
regulatory model, the output of a program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion import categorical
from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.plan import open_masks
from genodiff.diffusion.process import absorbing
from genodiff.diffusion.revealing import Grid, Parallel
from genodiff.diffusion.sampling import Sampler, check_steps
from genodiff.errors import UserError

Reward = Callable[[Tensor], Tensor]
"""Tokens (n, l) of clean sequences -> (n,), more is better."""


@dataclass(frozen=True)
class BestOf(Sampler):
    """Of n samples of another sampler, the one with the highest reward; the first of equals."""

    sampler: Sampler
    n: int
    reward: Reward

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n={self.n}: the best is taken of at least one sample; use e.g. 8.")

    def restore(
        self,
        denoiser: Any,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        repeated = None if frozen is None else frozen.repeat_interleave(self.n, 0)
        samples = self.sampler.restore(
            denoiser, x.repeat_interleave(self.n, 0), repeated, generator
        )
        best = rewards(self.reward, samples).unflatten(0, (-1, self.n)).argmax(-1)
        return samples.unflatten(0, (-1, self.n))[torch.arange(len(x), device=x.device), best]

    def masked(self, denoiser: Any, x: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return self.sampler.masked(denoiser, x)


@dataclass(frozen=True)
class SequentialMonteCarlo(Sampler):
    """Draws from p(x) exp(reward(x) / temperature), normalised, ever better the more particles;
    of a `Constrained` denoiser from p(x | language) in the place of p(x), also without a reward.

    Each row has `particles` copies that are revealed in the same random order. At every step each
    draws a whole sequence, is weighed by that sequence's reward, and keeps the tokens whose turn
    it is; when the effective number of copies falls below the share `resample_below` of them they
    are drawn anew in proportion to their weights. In the end one is drawn so. The reward counts in
    proportion to the share of the masks that is revealed: early sequences say little of the last.
    (Twisted sequential Monte Carlo, Wu et al. 2023, arXiv:2306.17775; the weights of the steps
    telescope to those of the sequences, so nothing but the number of copies is approximate.)
    """

    reward: Reward | None
    particles: int
    steps: int
    temperature: float = 1.0
    resample_below: float = 0.5
    grid: Grid = "uniform"
    draw: categorical.Draw = categorical.draw

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.particles < 1:
            raise UserError(f"particles={self.particles} must be at least 1; use e.g. 16.")
        if not self.temperature > 0:
            raise UserError(
                f"temperature={self.temperature}: rewards are divided by it; use more than 0, "
                "e.g. 1.0."
            )
        if not 0 <= self.resample_below <= 1:
            raise UserError(
                f"resample_below={self.resample_below} is a share of the particles, in [0, 1]; "
                "use e.g. 0.5."
            )

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        process, n = absorbing(denoiser.process, "SequentialMonteCarlo"), self.particles
        free = open_masks(process, x, frozen)
        plan = Parallel(self.steps, self.grid).plan(process, free, generator)
        x_t = x[:, None].repeat(1, n, 1)  # (b, n, l)
        log_weight = torch.zeros(len(x), n, dtype=torch.float64, device=x.device)
        before = log_weight.clone()
        for j in range(int(plan.evaluations.max()) if len(x) else 0):
            rows = (plan.evaluations > j).nonzero()[:, 0]
            left = (plan.turn[rows] >= j)[:, None].expand(-1, n, -1)
            t = plan.t[rows, j, None].repeat_interleave(n, 0)
            now = x_t[rows].flatten(0, 1)
            proposal = denoiser.propose_at(now, t, left.flatten(0, 1))
            drawn = proposal.draw(None, generator, self.draw)
            whole = now.masked_scatter(left.flatten(0, 1), drawn)
            revealed = (free[rows] & (plan.turn[rows] <= j)).sum(-1) / free[rows].sum(-1)
            reward = torch.zeros_like(before[rows])
            if self.reward is not None:
                reward = rewards(self.reward, whole).unflatten(0, (-1, n))
            reward = reward * (revealed / self.temperature)[:, None]
            turn = (plan.turn[rows] == j)[:, None].expand(-1, n, -1)
            chosen = turn[left]
            unlike = proposal.log_weight(drawn[chosen], chosen).expand(len(now))
            weight = log_weight[rows] + reward - before[rows] + unlike.unflatten(0, (-1, n))
            shown = torch.where(turn, whole.unflatten(0, (-1, n)), x_t[rows])
            few = self._effective(weight) < self.resample_below * n
            last = plan.evaluations[rows] == j + 1
            keep = torch.arange(n, device=x.device).expand(len(rows), n)
            parent = torch.where((few & ~last)[:, None], self._resampled(weight, generator), keep)
            x_t[rows] = shown.gather(1, parent[..., None].expand_as(shown))
            before[rows] = reward.gather(1, parent)
            log_weight[rows] = torch.where((few & ~last)[:, None], 0.0, weight)
        chosen = categorical.draw(log_weight, generator)
        return x_t[torch.arange(len(x), device=x.device), chosen]

    @staticmethod
    def _resampled(
        log_weight: Float[Tensor, "b n"], generator: Generator | None
    ) -> Int[Tensor, "b n"]:
        """Each particle as often as its weight says, up to one: systematic resampling."""
        n = log_weight.shape[1]
        shape, like = (len(log_weight), 1), {"device": log_weight.device, "dtype": torch.float64}
        comb = torch.rand(shape, generator=generator, **like) + torch.arange(n, **like)
        ends = log_weight.softmax(-1).cumsum(-1)
        return torch.searchsorted(ends / ends[:, -1:], comb / n, right=True).clamp(max=n - 1)

    @staticmethod
    def _effective(log_weight: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """1 / sum of squared weights: how many equal ones they are worth."""
        return 1 / log_weight.softmax(-1).square().sum(-1)


def rewards(reward: Reward, tokens: Int[Tensor, "n l"]) -> Float[Tensor, " n"]:
    """The rewards of sequences, in float64; anything but one finite number each is a UserError."""
    values = reward(tokens)
    if values.shape != tokens.shape[:1] or not bool(values.isfinite().all()):
        raise UserError(
            f"the reward gives shape {tuple(values.shape)} for {len(tokens)} sequences, or "
            "numbers that are not finite; one finite number a sequence is needed."
        )
    return values.to(tokens.device, torch.float64)
