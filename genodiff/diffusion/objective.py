"""Training objectives and likelihood bounds: nats a token, unreduced.

Every objective maps (denoiser, x0) to nats of shape (b, l) whose mean over the randomness bounds
-log p(x0) (see each for its range). A position that is not data, or not masked in the draw, gives
exactly 0. `mean_nats` reduces.

Each has a deterministic half, `at`, which takes the corrupted tokens: what closed-form tests and
evaluation call.
"""

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.process import Absorbing, absorbing
from genodiff.diffusion.times import AntitheticTimes, Times, uniforms
from genodiff.errors import UserError


class Objective(abc.ABC):
    """(denoiser, clean tokens) -> nats a token."""

    @abc.abstractmethod
    def __call__(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        *,
        generator: Generator | None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """One random estimate of the bound. The generator lives on the device of x0."""


@dataclass(frozen=True)
class ContinuousNelbo(Objective):
    """The continuous-time NELBO: the integral of nelbo_weight(t) E[cross-entropy of masked
    tokens].

    Sahoo et al. 2024 (arXiv:2406.07524), eq. 10. It covers the mask rates from mask_rate(t_min) to
    mask_rate(1): with a schedule that goes from alpha=1 to alpha=0 it is a bound on -log p(x0),
    and the entropy for a perfect denoiser; eps > 0 leaves out about eps of the cross-entropy of a
    fully masked sequence (0.0014 nats a base of DNA at 1e-3). `ExactlyK` has no such end.
    """

    times: Times = field(default_factory=AntitheticTimes)

    def __call__(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        *,
        generator: Generator | None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        schedule = model.process.schedule
        t, weight = self.times(schedule, len(x0), generator=generator, device=x0.device)
        x_t = model.process.corrupt(x0, t, generator=generator)
        nats = self.at(model, x0, x_t, t, condition)
        return nats * weight.to(nats.dtype)

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """The integrand at given times and corrupted tokens, without the draw's weight of t."""
        process = absorbing(model.process, "ContinuousNelbo")
        where = _is_scored(process, x0, x_t)
        nats = _spread(-model.log_likelihood_at(x0, x_t, t, where, condition), where)
        return process.schedule.nelbo_weight(t).to(nats.dtype) * nats


@dataclass(frozen=True)
class DiscreteNelbo(Objective):
    """The NELBO of a chain of T = `steps` steps, one of which is drawn at random, by `times`.

    The sum of KL(q(x_s | x_t, x_0) || p(x_s | x_t)) over t = 1/T .. 1: the bound L_vb of Austin et
    al. 2021 (D3PM, arXiv:2107.03006). Finite for every T and any schedule. The last step, to t=0,
    always goes to x_0: so nothing is left to reconstruct where alpha(0) < 1. As in
    `ContinuousNelbo` alpha(1) > 0 leaves the prior's end out.
    """

    steps: int
    times: Times = field(default_factory=AntitheticTimes)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(
                f"steps={self.steps}: a chain has at least one step; use e.g. steps=1000."
            )

    def __call__(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        *,
        generator: Generator | None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        t, weight = self.times(
            model.process.schedule, len(x0), generator=generator, device=x0.device
        )
        t = torch.ceil(t * self.steps) / self.steps
        x_t = model.process.corrupt(x0, t, generator=generator)
        nats = self.at(model, x0, x_t, t, condition)
        return nats * weight.to(nats.dtype)

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """`steps` times the KL of the step from t = i/steps; the mean over i is the bound."""
        process = absorbing(model.process, "DiscreteNelbo")
        step = (t * self.steps).round()
        t, s = step / self.steps, (step - 1) / self.steps
        where = _is_scored(process, x0, x_t)
        log_p = model.log_transition_at(x_t, t, s, where, condition)  # (m, k)
        log_p_x0 = log_p.gather(-1, x0[where][:, None])[:, 0]
        # q(x_s | x_t = mask, x_0) has two outcomes: revealed as x_0, or still masked.
        stay = process.schedule.mask_rate(s) / process.schedule.mask_rate(t)
        stay = stay.expand_as(where)[where]
        stay, reveal = stay.to(log_p.dtype), (1 - stay).to(log_p.dtype)
        kl = torch.xlogy(reveal, reveal) - reveal * log_p_x0
        kl = kl + torch.where(
            stay > 0, torch.xlogy(stay, stay) - stay * log_p[:, process.mask_id], 0.0
        )
        kl = torch.where(step.expand_as(where)[where] == 1, reveal.log() - log_p_x0, kl)
        return _spread(self.steps * kl, where)


@dataclass(frozen=True)
class ExactlyK(Objective):
    """The any-order NELBO: k of a row's n data tokens are masked, k uniform on 1 .. n, weight n/k.

    Hoogeboom et al. 2022 (ARDM, arXiv:2110.02037); Ou et al. 2024 (RADD, arXiv:2406.03736).
    It equals the continuous-time NELBO of a schedule from alpha=1 to alpha=0, whichever, at a
    fraction of its variance: the number of masks is no longer random given the time, and
    `stratified` spreads k/n evenly over the batch. A time-conditioned denoiser is told the time at
    which k/n of the tokens are masked.
    """

    stratified: bool = True

    def __call__(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        *,
        generator: Generator | None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        u = uniforms(len(x0), self.stratified, generator=generator, device=x0.device)
        where = self.draw_masks(absorbing(model.process, "ExactlyK"), x0, u, generator=generator)
        return self.at(model, x0, where, condition)

    def draw_masks(
        self,
        process: Absorbing,
        x0: Int[Tensor, "b l"],
        u: Float[Tensor, "b 1"],
        *,
        generator: Generator | None,
    ) -> Bool[Tensor, "b l"]:
        """Masks k = ceil(u n) of the n data tokens of each row, chosen at random; u in (0, 1]."""
        is_data = process.is_data(x0)
        k = torch.ceil(u * is_data.sum(-1, keepdim=True))
        score = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
        rank = score.masked_fill(~is_data, 2.0).argsort(-1).argsort(-1)
        return rank < k

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """The estimate for given masks; positions that are not data do not count."""
        process = absorbing(model.process, "ExactlyK")
        is_data = process.is_data(x0)
        where = where & is_data
        n, k = (
            mask.sum(-1, keepdim=True).clamp(min=1).to(torch.float64) for mask in (is_data, where)
        )
        t = process.schedule.inverse(1 - k / n)
        x_t = process.mask(x0, where)
        nats = _spread(-model.log_likelihood_at(x0, x_t, t, where, condition), where)
        return (n / k).to(nats.dtype) * nats


def mean_nats(nats: Float[Tensor, "b l"], weights: Float[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Weighted mean, sum(nats weights) / sum(weights); 0 where no token counts (all N)."""
    total = weights.sum()
    return (nats * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def _spread(values: Float[Tensor, " m"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    """The values at the positions `where`, 0 elsewhere."""
    return values.new_zeros(where.shape).masked_scatter(where, values)


def _is_scored(
    process: Absorbing, x0: Int[Tensor, "b l"], x_t: Int[Tensor, "b l"]
) -> Bool[Tensor, "b l"]:
    """Where a data token is masked."""
    return process.is_masked(x_t) & process.is_data(x0)
