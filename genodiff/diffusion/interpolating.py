"""Processes whose noise is a law over the data tokens: uniform, and masking with some of it."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.process import (
    LOG_ZERO,
    TINY,
    Process,
    check_time,
    ids_on,
    log_one_hot,
    log_or_zero,
    log_uniform,
    over_data,
    resolve_data_ids,
)
from genodiff.diffusion.schedule import NoiseSchedule
from genodiff.errors import UserError


class Interpolating(Process):
    """A process whose noise is a law over the data tokens, and possibly a mask, that may change
    with time (von Ruette et al. 2025, GIDD, arXiv:2503.04482).

    Subclasses give the noise and the rates at which it arrives; Bayes' rule does the rest.
    """

    @abc.abstractmethod
    def noise(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        """noise_t: the probability that a data token is corrupted to each token, its own
        included. All data tokens are alike in it, and it sums to 1 - alpha(t)."""

    @abc.abstractmethod
    def arrivals(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        """The rates of `log_jump_rate`, times alpha(t): alpha noise' - alpha' noise."""

    def log_marginal(
        self, log_p_x0: Float[Tensor, "b l k"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        return self._log_marginal(log_p_x0, self.schedule.alpha(t), self.noise(t))

    def information(self, t: Float[Tensor, "1 1"]) -> Float[Tensor, " k"]:
        unknown = log_uniform(self, t.device)
        known = log_one_hot(torch.tensor([self.data_ids[:1]], device=t.device), unknown)
        log_q, log_p = (self.log_marginal(law, t)[0, 0] for law in (known, unknown))
        nats = (log_q.exp() * (log_q - log_p)).sum()  # of one, and so of all
        return torch.where(self.is_data(torch.arange(self.vocab_size, device=t.device)), nats, 0.0)

    def log_posterior(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        check_time(t)
        check_time(s)
        alpha, noise = self.schedule.alpha(s), self.noise(s)
        kept = self._kept(s, t)
        drawn = (self.noise(t) - kept[..., None] * noise).clamp(min=0)
        marginal = self._log_marginal(log_p_x0, alpha, noise)
        return self._bayes(x_t, marginal, kept, drawn)

    def log_clean(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        return self._bayes(x_t, log_p_x0, self.schedule.alpha(t), self.noise(t))

    def log_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        check_time(t)
        marginal = self.log_marginal(log_p_x0, t)
        return (marginal - marginal.gather(-1, x_t[..., None])).clamp(min=LOG_ZERO)

    def log_score_scale(self, t: Float[Tensor, "b #l"], n_tokens: int) -> Float[Tensor, "b #l"]:
        """0: the network gives the score itself (the uniform graph of Lou et al. 2024)."""
        return torch.zeros_like(t)

    def log_x0_of_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_score: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        marginal = log_score.softmax(-1)
        alpha = self.schedule.alpha(t)[..., None].clamp(min=TINY)
        p_x0 = ((marginal - self.noise(t)) / alpha).to(log_score.dtype)
        return over_data(log_or_zero(p_x0.clamp(min=1e-12)), self.data_ids)

    def log_jump_rate(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l"]:
        rates = self.arrivals(t).expand(*x_t.shape, -1).gather(-1, x_t[..., None])[..., 0]
        return log_or_zero(rates) - self.schedule.alpha(t).clamp(min=TINY).log()

    def _kept(self, s: Float[Tensor, "b #l"], t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l"]:
        """The probability that a token of time s is not drawn anew until t."""
        return self.schedule.alpha(t) / self.schedule.alpha(s).clamp(min=TINY)

    def _log_marginal(
        self, log_p_x0: Tensor, alpha: Float[Tensor, "b #l"], noise: Float[Tensor, "b #l k"]
    ) -> Float[Tensor, "b l k"]:
        """log q(x_t) = log of alpha p(x_0) + noise."""
        log_alpha = log_or_zero(alpha)[..., None].to(log_p_x0.dtype)
        log_noise = log_or_zero(noise).to(log_p_x0.dtype)
        return torch.logaddexp(log_alpha + log_p_x0, log_noise).clamp(min=LOG_ZERO)

    def _bayes(
        self,
        x_t: Int[Tensor, "b l"],
        log_prior: Float[Tensor, "b l k"],
        kept: Float[Tensor, "b #l"],
        drawn: Float[Tensor, "b #l k"],
    ) -> Float[Tensor, "b l k"]:
        """The law of a token given that it was kept, or else drawn from `drawn`, and is x_t
        now."""
        at_x_t = drawn.expand(*x_t.shape, -1).gather(-1, x_t[..., None])  # (b, l, 1)
        same = torch.arange(self.vocab_size, device=x_t.device) == x_t[..., None]
        likelihood = torch.where(same, kept[..., None] + at_x_t, at_x_t)
        log_p = (log_prior + log_or_zero(likelihood).to(log_prior.dtype)).log_softmax(-1)
        log_p = log_p.clamp(min=LOG_ZERO)
        return torch.where(self.is_open(x_t)[..., None], log_p, log_one_hot(x_t, log_p))


class Uniform(Interpolating):
    """A data token becomes any data token, itself included, with probability 1 - alpha(t).

    Austin et al. 2021 (D3PM, arXiv:2107.03006), uniform; Schiff et al. 2024 (UDLM,
    arXiv:2412.10193); Sahoo et al. 2025 (Duo, arXiv:2506.10892).
    """

    def __init__(self, schedule: NoiseSchedule, vocab_size: int, data_ids: Sequence[int]) -> None:
        self.schedule = schedule
        self.vocab_size = vocab_size
        self.data_ids = _checked_ids(vocab_size, data_ids)
        if len(self.data_ids) < 2:
            raise UserError(
                f"data_ids={list(data_ids)}: uniform noise needs two tokens to choose from; give "
                "two or more."
            )

    def __repr__(self) -> str:
        return f"Uniform({self.schedule!r}, vocab_size={self.vocab_size})"

    def prior(
        self,
        shape: tuple[int, int],
        *,
        device: torch.device | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "b l"]:
        return _uniform_tokens(self.data_ids, shape, device, generator)

    def is_masked(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        return torch.zeros_like(x_t, dtype=torch.bool)

    def is_open(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        return self.is_data(x_t)

    def corrupt(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], *, generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        check_time(t)
        return self._replace(x0, self.schedule.mask_rate(t), generator)

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
        return self._replace(x_s, 1 - self._kept(s, t), generator)

    def noise(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        return self.schedule.mask_rate(t)[..., None] * self._shares(t)

    def arrivals(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        return -self.schedule.dalpha(t)[..., None] * self._shares(t)

    def _shares(self, like: Tensor) -> Float[Tensor, " k"]:
        return _shares(self.data_ids, self.vocab_size, like)

    def _replace(
        self, x: Int[Tensor, "b l"], rate: Float[Tensor, "b #l"], generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        """x with each data token drawn anew with probability `rate`."""
        u = torch.rand(x.shape, dtype=torch.float64, device=x.device, generator=generator)
        drawn = _uniform_tokens(self.data_ids, x.shape, x.device, generator)
        return torch.where((u < rate) & self.is_data(x), drawn, x)


class Hybrid(Interpolating):
    """Masking with some uniform noise, so that a model learns to mend wrong tokens too.

    GIDD (von Ruette et al. 2025, arXiv:2503.04482): `uniform` is the share of uniform noise
    where masks and clean tokens are equally many, and `gamma` how fast it vanishes towards either
    end; see `Diluted`. With `LogLinear(eps=0)` it is GIDD on its own clock. `schedule` of the
    process is the resulting share of clean tokens.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        vocab_size: int,
        mask_id: int,
        data_ids: Sequence[int] | None = None,
        *,
        uniform: float = 0.1,
        gamma: float = 1.0,
    ) -> None:
        if not 0 < uniform < 1:
            raise UserError(
                f"uniform={uniform}: the share of uniform noise lies between 0 and 1; use e.g. "
                "0.1, or the absorbing or the uniform process."
            )
        if not 0 < gamma <= 2:
            raise UserError(f"gamma={gamma} is not in (0, 2]: noise would leave; use gamma=1.0.")
        self.base = schedule
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)
        self.uniform = uniform
        self.schedule = self._mixture = Diluted(
            schedule, 2**gamma * uniform / (1 - uniform), gamma
        )

    def __repr__(self) -> str:
        return f"Hybrid({self.base!r}, vocab_size={self.vocab_size}, uniform={self.uniform})"

    def prior(
        self,
        shape: tuple[int, int],
        *,
        device: torch.device | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "b l"]:
        return torch.full(shape, self.mask_id, device=device)

    def is_masked(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        return x_t == self.mask_id

    def is_open(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        return self.is_masked(x_t) | self.is_data(x_t)

    def corrupt(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], *, generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        check_time(t)
        masked, uniform = self._mixture.masked(t), self._mixture.uniform(t)
        return torch.where(self.is_data(x0), self._replace(x0, masked, uniform, generator), x0)

    def corrupt_from(
        self,
        x_s: Int[Tensor, "b l"],
        s: Float[Tensor, "b #l"],
        t: Float[Tensor, "b #l"],
        *,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        """Masks are drawn anew like letters: some become letters again."""
        check_time(t)
        check_time(s)
        kept = self._kept(s, t)
        masked = self._mixture.masked(t) - kept * self._mixture.masked(s)
        uniform = self._mixture.uniform(t) - kept * self._mixture.uniform(s)
        return torch.where(self.is_open(x_s), self._replace(x_s, masked, uniform, generator), x_s)

    def noise(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        return self._mix(self._mixture.masked(t), self._mixture.uniform(t))

    def arrivals(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l k"]:
        return self._mix(*self._mixture.arrivals(t))

    def _replace(
        self,
        x: Int[Tensor, "b l"],
        masked: Float[Tensor, "b #l"],
        uniform: Float[Tensor, "b #l"],
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        """x with each token masked, or drawn anew, with these probabilities."""
        u = torch.rand(x.shape, dtype=torch.float64, device=x.device, generator=generator)
        drawn = _uniform_tokens(self.data_ids, x.shape, x.device, generator)
        noised = torch.where(u < masked, self.mask_id, drawn)
        return torch.where(u < masked + uniform, noised, x)

    def _mix(
        self, masked: Float[Tensor, "b #l"], uniform: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b #l k"]:
        shares = _shares(self.data_ids, self.vocab_size, masked)
        mask = _shares((self.mask_id,), self.vocab_size, masked)
        return masked[..., None] * mask + uniform[..., None] * shares


@dataclass(frozen=True)
class Diluted(NoiseSchedule):
    """A schedule whose tokens share their weight with uniform noise c(u), u = 1 - alpha(t):

        clean (1 - u) / (1 + c),   masked u / (1 + c),   uniform c / (1 + c),
        c(u) = scale (u (1 - u))^(gamma / 2).

    The noise of GIDD (von Ruette et al. 2025, arXiv:2503.04482), on any schedule's clock.
    """

    schedule: NoiseSchedule
    scale: float
    gamma: float = 1.0

    def alpha(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.schedule.alpha(t) / (1 + self._weight(t))

    def dalpha(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        masked, uniform = self.arrivals(t)
        return -(masked + uniform)

    def inverse(self, alpha: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """By bisection: 60 halvings of [0, 1]."""
        low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
        for _ in range(60):
            middle = (low + high) / 2
            later = self.alpha(middle) > alpha
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return (low + high) / 2

    def mask_rate(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.masked(t) + self.uniform(t)

    def masked(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Probability that a token is masked."""
        return self.schedule.mask_rate(t) / (1 + self._weight(t))

    def uniform(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Probability that a token is drawn at random."""
        weight = self._weight(t)
        return weight / (1 + weight)

    def arrivals(self, t: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
        """alpha times the rates at which masks, and random tokens, replace tokens."""
        clean, noised = self.schedule.alpha(t), self.schedule.mask_rate(t)
        speed, weight = -self.schedule.dalpha(t), self._weight(t)
        masked = speed / (1 + weight) ** 2
        # c' (1 - u) + c u' over (1 + c)^2, with c' = u' c gamma/2 (1/u - 1/(1 - u)).
        power = self.gamma / 2
        growth = (power * clean / noised.clamp(min=1e-30) + 1 - power) * weight
        return masked, speed * growth / (1 + weight) ** 2

    def _weight(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        product = self.schedule.alpha(t) * self.schedule.mask_rate(t)
        return self.scale * product.pow(self.gamma / 2)


def _checked_ids(vocab_size: int, data_ids: Sequence[int]) -> tuple[int, ...]:
    ids = tuple(sorted(set(data_ids)))
    if not ids or ids[0] < 0 or ids[-1] >= vocab_size:
        raise UserError(
            f"data_ids={list(data_ids)}: tokens in 0 .. {vocab_size - 1} are needed; give those "
            "that diffuse."
        )
    return ids


def _uniform_tokens(
    data_ids: tuple[int, ...],
    shape: Sequence[int],
    device: torch.device | None,
    generator: Generator | None,
) -> Int[Tensor, "b l"]:
    index = torch.randint(len(data_ids), tuple(shape), device=device, generator=generator)
    return ids_on(device, data_ids)[index]


def _shares(data_ids: tuple[int, ...], vocab_size: int, like: Tensor) -> Float[Tensor, " k"]:
    """The uniform law over `data_ids`, in the dtype and on the device of `like`."""
    shares = like.new_zeros(vocab_size)
    shares[ids_on(like.device, data_ids)] = 1 / len(data_ids)
    return shares
