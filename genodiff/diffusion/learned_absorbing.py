"""Masking whose pace is learned, token by token (GenMD4)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.objective import Noised, ScoreEntropy, TimedObjective
from genodiff.diffusion.process import (
    LOG_ZERO,
    TINY,
    Masking,
    check_time,
    log_one_hot,
    log_or_zero,
    over_data,
    resolve_data_ids,
)
from genodiff.diffusion.schedule import NoiseSchedule
from genodiff.diffusion.times import AntitheticTimes, Times


class LearnedAbsorbing(nn.Module, Masking):
    """Masking where token v is masked with probability mask_rate(t)^w_v, w_v > 0 learned.

    GenMD4 of Shi et al. 2024 (MD4, arXiv:2406.04329): alpha_v(t) = 1 - t^w_v on the
    linear schedule, here on any. Tokens of large w stay until late. A mask tells something of what
    it hides, so the p(x_0) that this process takes is p(x_0 | x_t), that knowledge included.

    Args:
        schedule: its mask_rate is the pace of a token with w = 1; mask_rate(0) must be 0 in
        effect. powers: the first w of every token.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        vocab_size: int,
        mask_id: int,
        data_ids: Sequence[int] | None = None,
        *,
        powers: float = 1.0,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)
        first = torch.full((vocab_size,), powers).expm1().log()
        self.softplus_inverse = nn.Parameter(first)
        self.softplus_inverse._no_weight_decay = True  # type: ignore[attr-defined]  # a vector

    @property
    def powers(self) -> Float[Tensor, " k"]:
        """w of each token, float64."""
        return nn.functional.softplus(self.softplus_inverse.double())

    def log_mask_rate(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l"]:
        """log of the probability that each token is masked at t."""
        return self.powers[x0] * log_or_zero(self.schedule.mask_rate(t))

    @torch.no_grad()
    def corrupt(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], *, generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        check_time(t)
        u = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
        hit = (u < self.log_mask_rate(x0, t).exp()) & self.is_data(x0)
        return torch.where(hit, self.mask_id, x0)

    @torch.no_grad()
    def corrupt_from(
        self,
        x_s: Int[Tensor, "b l"],
        s: Float[Tensor, "b #l"],
        t: Float[Tensor, "b #l"],
        *,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        check_time(t)
        check_time(s)
        u = torch.rand(x_s.shape, dtype=torch.float64, device=x_s.device, generator=generator)
        at_s, at_t = (self.log_mask_rate(x_s, time).exp() for time in (s, t))
        hit = (u * (1 - at_s) < at_t - at_s) & self.is_data(x_s)
        return torch.where(hit, self.mask_id, x_s)

    def log_probability(
        self, x_t: Int[Tensor, "b l"], x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l"]:
        """log q(x_t | x_0) of each token, with the gradient of w; 0 where nothing diffuses."""
        log_rate = self.log_mask_rate(x0, t)
        kept = log_or_zero(-torch.expm1(log_rate))
        log_q = torch.where(self.is_masked(x_t), log_rate, kept)
        return torch.where(self.is_data(x0), log_q, 0.0)

    def log_marginal(
        self, log_p_x0: Float[Tensor, "b l k"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        log_rate = self._log_rates(t).to(log_p_x0.dtype)
        kept = log_or_zero(-torch.expm1(log_rate)) + log_p_x0
        log_mask = (log_p_x0 + log_rate).logsumexp(-1, keepdim=True)
        return torch.where(self.mask_column(kept.device), log_mask, kept).clamp(min=LOG_ZERO)

    def log_posterior(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """A mask over v stays with probability (mask_rate(s) / mask_rate(t))^w_v."""
        check_time(t)
        check_time(s)
        log_stay = (self._log_rates(s) - self._log_rates(t)).to(log_p_x0.dtype)
        shown = log_or_zero(-torch.expm1(log_stay)) + log_p_x0
        log_mask = (log_stay + log_p_x0).logsumexp(-1, keepdim=True)
        log_p = torch.where(self.mask_column(shown.device), log_mask, shown).clamp(min=LOG_ZERO)
        return torch.where(self.is_masked(x_t)[..., None], log_p, log_one_hot(x_t, log_p))

    def log_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """log w_y + log p(x_0 = y) at a mask: the rates at which it is revealed, as multiples of
        `log_jump_rate`."""
        check_time(t)
        column = self.mask_column(log_p_x0.device)
        masked = torch.where(column, 0.0, log_p_x0 + self.powers.log().to(log_p_x0.dtype))
        clean = log_one_hot(x_t, masked)
        return torch.where(self.is_masked(x_t)[..., None], masked, clean)

    def log_score_scale(self, t: Float[Tensor, "b #l"], n_tokens: int) -> Float[Tensor, "b #l"]:
        return torch.full_like(t, -float(torch.tensor(n_tokens).log()))

    def log_x0_of_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_score: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        data = over_data(log_score - self.powers.log().to(log_score.dtype), self.data_ids)
        return torch.where(self.is_masked(x_t)[..., None], data, log_one_hot(x_t, data))

    def log_jump_rate(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l"]:
        """log of mask_rate'(t) / mask_rate(t): the pace of w = 1."""
        pace = log_or_zero(-self.schedule.dalpha(t))
        pace = pace - self.schedule.mask_rate(t).clamp(min=TINY).log()
        return torch.where(self.is_masked(x_t), pace, LOG_ZERO)

    def _log_rates(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        """log of the probability of being masked, for every token of the vocabulary."""
        return self.powers * log_or_zero(self.schedule.mask_rate(t))[..., None]


@dataclass(frozen=True)
class LearnedNelbo(TimedObjective):
    """The NELBO of `LearnedAbsorbing`, which trains the powers too.

    The bound is the `ScoreEntropy` of the process (Shi et al. 2024: w / t times (mu - 1 -
    log mu)). In training two corruptions are drawn at the same time; the powers' share in choosing
    them is credited with the difference of their losses (REINFORCE leave-one-out, Kool et al.
    2019; Shi et al. 2024), tokens counted alike whatever their weight.
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
        return ScoreEntropy(self.times, self.ends).at(model, x0, x_t, t, condition)

    @torch.no_grad()
    def draw(
        self, model: Denoiser, x0: Int[Tensor, "b l"], *, generator: Generator | None
    ) -> Noised:
        """Two corruptions of every row: x_t is (b, 2, l)."""
        first, t, weight = super().draw(model, x0, generator=generator)
        second = model.process.corrupt(x0, t, generator=generator)
        return Noised(torch.stack([first, second], dim=1), t, weight)

    def nats(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        drawn: Noised,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        process = model.process
        if not isinstance(process, LearnedAbsorbing):
            raise TypeError(f"LearnedNelbo trains a LearnedAbsorbing process, not {process!r}.")
        pair, t = drawn.x_t.unbind(1), drawn.t
        nats = [self.at(model, x0, one, t, condition) for one in pair]
        log_q = [process.log_probability(one, x0, t).to(nats[0].dtype) for one in pair]
        advantage = (nats[0] - nats[1]).sum(-1, keepdim=True).detach() / 2
        credit = advantage * (log_q[0] - log_q[1])
        mean = (nats[0] + nats[1]) / 2 + (credit - credit.detach())
        return mean * drawn.weight.to(mean.dtype)
