"""Training objectives and likelihood bounds: nats a token, unreduced.

Every objective maps (model, x0) to nats of shape (b, l). What their mean over the randomness is,
an objective says of itself: -log p(x0) *exact*ly, an upper *bound* of it (see each for its range),
or a training *loss* that is neither. A position that is not data gives exactly 0. `mean_nats`
reduces.

Every objective has two halves: `draw` draws what is random in a batch, `nats` scores it. So a
batch is drawn as a whole, its times stratified over all of it, and scored in whatever parts. Most
are `DenoisingObjective`s, which say the same of given corrupted tokens and times: `noise` and
`at`. Closed-form tests and evaluation call the halves.
"""

import abc
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.process import (
    LOG_ZERO,
    Absorbing,
    Process,
    absorbing,
    log_indicator,
    log_one_hot,
)
from genodiff.diffusion.times import AntitheticTimes, Times, uniforms
from genodiff.errors import UserError

Kind = Literal["exact", "bound", "loss"]


Drawn = TypeVar("Drawn", bound=tuple[Tensor, ...])


class Objective(abc.ABC, Generic[Drawn]):
    """(model, clean tokens) -> nats a token."""

    kind: Kind

    @abc.abstractmethod
    def draw(self, model: Any, x0: Int[Tensor, "b l"], *, generator: Generator | None) -> Drawn:
        """What is random: a named tuple of tensors that have the batch axis first and no graph.

        The network is not asked. The generator lives on the device of x0.
        """

    @abc.abstractmethod
    def nats(
        self,
        model: Any,
        x0: Int[Tensor, "b l"],
        drawn: Drawn,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """The nats of what was drawn; of a row they depend on its own rows of the arguments."""

    @final
    def __call__(
        self,
        model: Any,
        x0: Int[Tensor, "b l"],
        *,
        generator: Generator | None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """One random estimate."""
        return self.nats(model, x0, self.draw(model, x0, generator=generator), condition)


class Noised(NamedTuple):
    """Noised sequences; every tensor has the batch axis first, so rows can be put together."""

    x_t: Tensor  # (b, l) tokens; of a continuous process (b, l, d)
    t: Tensor  # (b, #l), float64
    weight: Tensor  # (b, #l), float64: what the nats of this draw count


class DenoisingObjective(Objective[Noised]):
    """An objective that corrupts sequences and scores how well they are restored."""

    @property
    @abc.abstractmethod
    def stratified(self) -> bool:
        """Whether the rows of a batch share the unit interval out between them."""

    @abc.abstractmethod
    def noise(
        self,
        model: Any,
        x0: Int[Tensor, "b l"],
        u: Float[Tensor, "b 1"],
        *,
        generator: Generator | None,
    ) -> Noised:
        """What is random: corrupted tokens and times, given a uniform number in (0, 1] a row."""

    @abc.abstractmethod
    def at(
        self,
        model: Any,
        x0: Int[Tensor, "b l"],
        x_t: Tensor,
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """The nats of given corrupted tokens and times, without the weight of the draw."""

    @torch.no_grad()
    def draw(self, model: Any, x0: Int[Tensor, "b l"], *, generator: Generator | None) -> Noised:
        u = uniforms(len(x0), self.stratified, generator=generator, device=x0.device)
        return self.noise(model, x0, u, generator=generator)

    def nats(
        self,
        model: Any,
        x0: Int[Tensor, "b l"],
        drawn: Noised,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        nats = self.at(model, x0, drawn.x_t, drawn.t, condition)
        return nats * drawn.weight.to(nats.dtype)


class TimedObjective(DenoisingObjective):
    """An objective that corrupts tokens by the model's process, at times of a law of its own."""

    times: Times

    @property
    def kind(self) -> Kind:  # type: ignore[override]  # of some it depends on the times
        """Mean over clipped mask rates, a bound becomes a loss."""
        return "bound" if self.times.whole else "loss"

    @property
    def stratified(self) -> bool:
        return self.times.stratified

    def noise(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        u: Float[Tensor, "b 1"],
        *,
        generator: Generator | None,
    ) -> Noised:
        u = self.times.spread(u, x0.shape[1], generator=generator)
        t, weight = self.times.at(model.process.schedule, u)
        t = self.rounded(t)
        return Noised(model.process.corrupt(x0, t, generator=generator), t, weight)

    def rounded(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l"]:
        """The times that occur, given any."""
        return t

    def check_ends(self, ends: bool) -> None:
        """Raises UserError if `ends` are to be counted of a range that leaves more out."""
        if ends and not self.times.whole:
            raise UserError(
                f"ends=True with {self.times}: clipped mask rates are no bound, with or without "
                "their ends; use ends=False, or times that are not clipped."
            )


@dataclass(frozen=True)
class ContinuousNelbo(TimedObjective):
    """The continuous-time NELBO of masking: the integral of nelbo_weight(t) E[cross-entropy of
    masked tokens].

    Sahoo et al. 2024 (arXiv:2406.07524), eq. 10. It covers the mask rates from mask_rate(t_min) to
    mask_rate(1): with a schedule that goes from alpha=1 to alpha=0 it is a bound on -log p(x0),
    and the entropy for a perfect denoiser; eps > 0 leaves out about eps of the cross-entropy of a
    fully masked sequence (0.0014 nats a base of DNA at 1e-3). `ends=True` counts what is left out
    (see `end_nats`) and makes it a bound for every schedule. `ExactlyK` has no ends.
    """

    times: Times = field(default_factory=AntitheticTimes)
    ends: bool = False

    def __post_init__(self) -> None:
        self.check_ends(self.ends)

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        process = absorbing(model.process, "ContinuousNelbo")
        weight = process.schedule.nelbo_weight(t)
        nats = weighted_cross_entropy(model, process, x0, x_t, t, condition, weight)
        return nats + end_nats(process, x0, self.times.t_min).to(nats.dtype) if self.ends else nats


@dataclass(frozen=True)
class CrossEntropy(TimedObjective):
    """Cross-entropy of masked tokens, all mask rates alike: a training loss of low variance.

    The NELBO's weight 1/t, which is largest where hardly anything is masked, is left out
    (`low_var` of Sahoo et al. 2025, Duo, arXiv:2506.10892). The perfect denoiser is the same; what
    a finite network spends its capacity on is not.
    """

    times: Times = field(default_factory=AntitheticTimes)

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return "loss"

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        process = absorbing(model.process, "CrossEntropy")
        weight = torch.ones_like(t)
        return weighted_cross_entropy(model, process, x0, x_t, t, condition, weight)


@dataclass(frozen=True)
class DiscreteNelbo(TimedObjective):
    """The NELBO of a chain of T = `steps` steps, one of which is drawn at random, by `times`.

    The sum of KL(q(x_s | x_t, x_0) || p(x_s | x_t)) over t = 1/T .. 1: the bound L_vb of Austin et
    al. 2021 (D3PM, arXiv:2107.03006), for any process. Finite for every T and any schedule. The
    last step, to t=0, always goes to x_0: so nothing is left to reconstruct where alpha(0) < 1. As
    in `ContinuousNelbo` alpha(1) > 0 leaves the prior's end out.

    `reconstruct=True` is the chain of Sahoo et al. 2024's D3PM: the last step ends at t=0 like any
    other, and x_0 is told from there by p(x_0) at t=0, at the cost of a second evaluation.
    `ends=True` counts the prior's end.
    """

    steps: int
    times: Times = field(default_factory=AntitheticTimes)
    reconstruct: bool = False
    ends: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(
                f"steps={self.steps}: a chain has at least one step; use e.g. steps=1000."
            )
        self.check_ends(self.ends)

    def rounded(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l"]:
        return torch.ceil(t * self.steps) / self.steps

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """`steps` times the KL of the step from t = i/steps; the mean over i is the bound."""
        model, process = model.given(x0), model.process
        step = (t * self.steps).round()
        t, s = step / self.steps, (step - 1) / self.steps
        where = process.is_open(x_t) & process.is_data(x0)
        rows = [x.expand_as(x0)[where] for x in (x0, x_t, t, s, step)]
        read = partial(self._step_nats, process)
        kl = model.read_at("log_x0", read, x_t, t, where, rows, condition)
        nats = spread(self.steps * kl, where)
        if self.ends:
            nats = nats + end_nats(process, x0, None).to(nats.dtype)
        return nats + self._reconstruction(model, x0, condition) if self.reconstruct else nats

    def _step_nats(
        self,
        process: Process,
        log_x0: Float[Tensor, "n k"],
        x0: Int[Tensor, " n"],
        x_t: Int[Tensor, " n"],
        t: Float[Tensor, " n"],
        s: Float[Tensor, " n"],
        step: Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of each token, or what its last step costs."""
        process, log_x0, x0, x_t = _folded(process, log_x0, x0, x_t)
        log_p, log_q = (
            process.log_posterior(x_t[None], law, t[None], s[None])[0]
            for law in (log_x0[None], log_one_hot(x0[None], log_x0[None]))
        )
        possible = log_q > log_q.new_tensor(-1e5)
        kl = torch.where(possible, log_q.exp() * (log_q - log_p), 0.0).sum(-1)
        if self.reconstruct:
            return kl
        told = process.log_clean(x_t[None], log_x0[None], t[None])[0]
        return torch.where(step == 1, -told.gather(-1, x0[:, None])[:, 0], kl)

    def _reconstruction(
        self, model: Denoiser, x0: Int[Tensor, "b l"], condition: Tensor | None
    ) -> Float[Tensor, "b l"]:
        start = torch.zeros(len(x0), 1, dtype=torch.float64, device=x0.device)
        where = model.process.is_data(x0)
        return spread(-model.log_likelihood_at(x0, x0, start, where, condition), where)


@dataclass(frozen=True)
class ScoreEntropy(TimedObjective):
    """The continuous-time NELBO of any process: the KL divergence of the reverse jumps' rates,

        r(x_t) sum over y != x_t of  s_y - q_y + q_y log(q_y / s_y),

    r the rate at which the process jumps to x_t, s the model's score, q the score that x_0 gives.
    Campbell et al. 2022 (arXiv:2205.14987); Lou et al. 2024 (SEDD, arXiv:2310.16834).

    With a `Score` it is SEDD, absorbing or uniform. With a distribution of x_0 it is for masking
    the `ContinuousNelbo`, at more cost; for `Uniform` noise the NELBO of UDLM (Schiff et al. 2024,
    arXiv:2412.10193), summed over the vocabulary in closed form ("Rao-Blackwellized", Sahoo et al.
    2025, Duo, arXiv:2506.10892); for `Hybrid` noise that of GIDD (von Ruette et al. 2025,
    arXiv:2503.04482). The range is that of the times, and `ends` is as in `ContinuousNelbo`.
    """

    times: Times = field(default_factory=AntitheticTimes)
    ends: bool = False

    def __post_init__(self) -> None:
        self.check_ends(self.ends)

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        model, process = model.given(x0), model.process
        where = process.is_open(x_t) & process.is_data(x0)
        rows = [x.expand_as(x0)[where] for x in (x0, x_t, t)]
        read = partial(_jump_nats, process)
        nats = spread(model.read_at("log_score", read, x_t, t, where, rows, condition), where)
        return nats + end_nats(process, x0, self.times.t_min).to(nats.dtype) if self.ends else nats


@dataclass(frozen=True)
class ExactlyK(DenoisingObjective):
    """The any-order NELBO: k of a row's n data tokens are masked, k uniform on 1 .. n, weight n/k.

    Hoogeboom et al. 2022 (ARDM, arXiv:2110.02037); Ou et al. 2024 (RADD, arXiv:2406.03736).
    It equals the continuous-time NELBO of a schedule from alpha=1 to alpha=0, whichever, at a
    fraction of its variance: the number of masks is no longer random given the time, and
    `stratified` spreads k/n evenly over the batch. A time-conditioned denoiser is told the time at
    which k/n of the tokens are masked.
    """

    stratified: bool = True  # pyright: ignore[reportIncompatibleMethodOverride]  # a field is one

    kind = "bound"

    def noise(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        u: Float[Tensor, "b 1"],
        *,
        generator: Generator | None,
    ) -> Noised:
        """Masks k = ceil(u n) of the n data tokens of each row, chosen at random."""
        process = absorbing(model.process, "ExactlyK")
        is_data = process.is_data(x0)
        n = is_data.sum(-1, keepdim=True)
        k = torch.ceil(u * n)
        score = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
        rank = score.masked_fill(~is_data, 2.0).argsort(-1).argsort(-1)
        t = process.schedule.inverse(1 - k / n.clamp(min=1))
        return Noised(process.mask(x0, rank < k), t, torch.ones_like(t))

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """n/k times the cross-entropy of the masked tokens."""
        process = absorbing(model.process, "ExactlyK")
        is_data = process.is_data(x0)
        k = (is_data & process.is_masked(x_t)).sum(-1, keepdim=True).clamp(min=1)
        weight = is_data.sum(-1, keepdim=True) / k
        return weighted_cross_entropy(model, process, x0, x_t, t, condition, weight)


def _jump_nats(
    process: Process,
    log_s: Float[Tensor, "n k"],
    x0: Int[Tensor, " n"],
    x_t: Int[Tensor, " n"],
    t: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """What `ScoreEntropy` says of each token: log_s is the model's score."""
    process, log_s, x0, x_t = _folded(process, log_s, x0, x_t, data_only=True)
    log_q = process.log_score(x_t[None], log_one_hot(x0[None], log_s[None]), t[None])[0]
    log_rate = process.log_jump_rate(x_t[None], t[None])[0, :, None].to(log_s.dtype)
    # Towards a token that x_0 forbids, s_y alone is left.
    possible = log_q > -1e5
    surprise = torch.where(possible, log_s - log_q, 0.0)
    kl = torch.where(
        possible,
        (log_rate + log_q).exp() * (torch.expm1(surprise) - surprise),
        (log_rate + log_s).exp(),
    )
    columns = torch.arange(process.vocab_size, device=x_t.device)
    reachable = process.reachable(columns) & (columns != x_t[:, None])
    return torch.where(reachable, kl, 0.0).sum(-1)


def _folded(
    process: Process,
    log_y: Float[Tensor, "n k"],
    x0: Int[Tensor, " n"],
    x_t: Int[Tensor, " n"],
    *,
    data_only: bool = False,
) -> tuple[Process, Float[Tensor, "n j"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The same of a vocabulary of three, where masking is all that happens: of a mask only x_0,
    the mask and the sum of the other tokens matter, or of the other data tokens."""
    if not isinstance(process, Absorbing):
        return process, log_y, x0, x_t
    single = torch.stack([x0, torch.full_like(x0, process.mask_id)], dim=-1)
    others = log_y + log_indicator(log_y, process.data_ids) if data_only else log_y
    others = others.scatter(-1, single, LOG_ZERO).logsumexp(-1)
    of_x0, of_mask = log_y.gather(-1, single).unbind(-1)
    x0, mask = torch.zeros_like(x0), torch.full_like(x0, 2)
    three = Absorbing(process.schedule, vocab_size=3, mask_id=2)
    return three, torch.stack([of_x0, others, of_mask], dim=-1), x0, mask


def mean_nats(nats: Float[Tensor, "b l"], weights: Float[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Weighted mean, sum(nats weights) / sum(weights); 0 where no token counts (all N)."""
    total = weights.sum()
    return (nats * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def end_nats(
    process: Process, x0: Int[Tensor, "b l"], t_min: float | None
) -> Float[Tensor, "b l"]:
    """What is left out of a NELBO over times from t_min to 1, told by codes that know nothing.

    Of each data token: x_0 given x_t at t_min, as if all data tokens were equally likely (None:
    nothing is left there), and KL(q(x_1 | x_0) || q(x_1)) under that same law. Divided by the time
    that is covered, as draws will be multiplied with it. Shi et al. 2024 (MD4, arXiv:2406.04329)
    count the first.
    """
    one = torch.ones(1, 1, dtype=torch.float64, device=x0.device)
    nats = process.information(one)
    if t_min is not None:
        # -log p(x_0 | x_t) is log K less what x_t tells of x_0, by Bayes.
        nats = nats + math.log(len(process.data_ids)) - process.information(t_min * one)
    return torch.where(process.is_data(x0), nats[x0], 0.0) / (1 - (t_min or 0.0))


def weighted_cross_entropy(
    model: Denoiser,
    process: Absorbing,
    x0: Int[Tensor, "b l"],
    x_t: Int[Tensor, "b l"],
    t: Float[Tensor, "b #l"],
    condition: Tensor | None,
    weight: Float[Tensor, "b #l"],
) -> Float[Tensor, "b l"]:
    """-weight log p(x_0) at masked data tokens, 0 elsewhere."""
    where = process.is_masked(x_t) & process.is_data(x0)
    log_p = model.log_likelihood_at(x0, x_t, t, where, condition, weight=weight)
    return -weight.to(log_p.dtype) * spread(log_p, where)


def spread(values: Float[Tensor, " m"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    """The values at the positions `where`, 0 elsewhere."""
    return values.new_zeros(where.shape).masked_scatter(where, values)
