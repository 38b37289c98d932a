"""Forward processes q(x_t | x_0) of discrete diffusion, and what follows from them alone.

A token is kept with probability alpha(t) or replaced by noise, whose law is the process' own:

    q(x_t | x_0) = alpha(t) [x_t = x_0] + noise_t(x_t)

A process says how tokens are corrupted and, given a distribution over the clean token, how they
come back: the posterior q(x_s | x_t) for s < t, and in continuous time the rates of its jumps.

The distribution p(x_0) that a model supplies is *plugged in*: it stands in for the clean token in
q(x_s | x_t, x_0) (Austin et al. 2021, arXiv:2107.03006, eq. 4; Schiff et al. 2024, UDLM,
arXiv:2412.10193). So it is what the other tokens say of x_0: where x_t is a mask that is p(x_0 |
x_t), and in general the process itself adds the evidence of the token's own x_t. Times have shape
(b, 1), one a row, or (b, l), one a token; never (b,).
"""

import abc
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.schedule import NoiseSchedule
from genodiff.errors import UserError

LOG_ZERO = -1e6
"""The log-probability that stands for zero: finite, so that sums and gradients hold no NaN."""

TINY = 1e-30
"""The least share of clean or corrupted tokens that rates and scores are computed with."""


class Process(abc.ABC):
    """A corruption process over tokens 0 .. vocab_size - 1, of which `data_ids` diffuse.

    Other tokens (N, padding, special tokens) are never corrupted, so that nothing is learnt or
    drawn there.
    """

    schedule: NoiseSchedule
    vocab_size: int
    data_ids: tuple[int, ...]

    @abc.abstractmethod
    def prior(
        self,
        shape: tuple[int, int],
        *,
        device: torch.device | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "b l"]:
        """Tokens at t=1, where sampling starts."""

    @abc.abstractmethod
    def corrupt(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], *, generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        """Draws x_t from q(x_t | x_0)."""

    @abc.abstractmethod
    def corrupt_from(
        self,
        x_s: Int[Tensor, "b l"],
        s: Float[Tensor, "b #l"],
        t: Float[Tensor, "b #l"],
        *,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        """Draws x_t from q(x_t | x_s) for s <= t: the process goes on from the tokens of time s,
        none of which knows its x_0."""

    @abc.abstractmethod
    def is_open(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        """Which tokens the reverse process may still change."""

    @abc.abstractmethod
    def is_masked(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        """Which tokens are noise that no clean sequence holds."""

    @abc.abstractmethod
    def log_marginal(
        self, log_p_x0: Float[Tensor, "b l k"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        """log of sum over x_0 of q(x_t | x_0) p(x_0), for data tokens x_0."""

    @abc.abstractmethod
    def log_posterior(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """log q(x_s | x_t, x_0) with p(x_0) plugged in, for s <= t: proportional to
        q(x_t | x_s) sum over x_0 of q(x_s | x_0) p(x_0)."""

    @abc.abstractmethod
    def log_clean(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """log p(x_0 | x_t), the evidence of x_t included: proportional to q(x_t | x_0) p(x_0)."""

    @abc.abstractmethod
    def log_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """log of the concrete score q_t(y) / q_t(x_t) with p(x_0) plugged in; 0 for y = x_t.

        Lou et al. 2024 (SEDD, arXiv:2310.16834).
        """

    @abc.abstractmethod
    def log_score_scale(self, t: Float[Tensor, "b #l"], n_tokens: int) -> Float[Tensor, "b #l"]:
        """log of the score that a p(x_0) uniform over `n_tokens` gives at a corrupted token: what
        a network that gives scores starts from."""

    @abc.abstractmethod
    def log_x0_of_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_score: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """The log p(x_0) whose score is nearest: the inverse of `log_score`, made a distribution
        over the data tokens."""

    @abc.abstractmethod
    def log_jump_rate(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l"]:
        """log of the rate, in 1/time, at which the forward process jumps to the token x_t at time
        t, from wherever. Times the score it is the rate of the reverse jump (Campbell et al. 2022,
        arXiv:2205.14987)."""

    @abc.abstractmethod
    def information(self, t: Float[Tensor, "1 1"]) -> Float[Tensor, " k"]:
        """What a token of time t tells of its x_0, in nats, of each x_0: KL(q(x_t | x_0) ||
        q(x_t)) where all data tokens are equally likely; 0 for tokens that are not data."""

    def reachable(self, tokens: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        """Which tokens a diffusing position may hold at some time."""
        return self.is_data(tokens) | self.is_masked(tokens)

    def posterior(
        self,
        x_t: Int[Tensor, "b l"],
        p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """`log_posterior` in probabilities."""
        return self.log_posterior(x_t, p_x0.log().clamp(min=LOG_ZERO), t, s).exp()

    def is_data(self, tokens: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        """Whether a token is one of `data_ids`, i.e. takes part in the diffusion."""
        return torch.isin(tokens, ids_on(tokens.device, self.data_ids))


class Masking(Process):
    """A process that ends in masks: a token is masked once and stays so until it is restored."""

    mask_id: int

    def prior(
        self,
        shape: tuple[int, int],
        *,
        device: torch.device | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "b l"]:
        return torch.full(shape, self.mask_id, device=device)

    def mask_column(self, device: torch.device) -> Bool[Tensor, " k"]:
        """Where the mask is on the vocabulary axis."""
        return torch.arange(self.vocab_size, device=device) == self.mask_id

    def is_masked(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        return x_t == self.mask_id

    def is_open(self, x_t: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        return self.is_masked(x_t)

    def information(self, t: Float[Tensor, "1 1"]) -> Float[Tensor, " k"]:
        ids, log_n = ids_on(t.device, self.data_ids), math.log(len(self.data_ids))
        log_p = self.log_marginal(log_uniform(self, t.device), t)[0, 0]
        log_kept = log_p[ids] + log_n
        masked = -torch.expm1(log_kept)
        nats = log_kept.exp() * log_n + masked * (log_or_zero(masked) - log_p[self.mask_id])
        return torch.zeros_like(log_p).index_copy(0, ids, nats)

    def log_clean(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """p(x_0) among the tokens that are not the mask; a clean token is itself."""
        data = torch.where(self.mask_column(x_t.device), LOG_ZERO, log_p_x0).log_softmax(-1)
        return torch.where(self.is_masked(x_t)[..., None], data, log_one_hot(x_t, data))


class Absorbing(Masking):
    """Masking: a data token is replaced by the mask with probability 1 - alpha(t).

    Sahoo et al. 2024 (arXiv:2406.07524). `data_ids` are the tokens that diffuse, by default all
    but the mask.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        vocab_size: int,
        mask_id: int,
        data_ids: Sequence[int] | None = None,
    ) -> None:
        self.schedule = schedule
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)

    def __repr__(self) -> str:
        return (
            f"Absorbing({self.schedule!r}, vocab_size={self.vocab_size}, mask_id={self.mask_id})"
        )

    def is_data(self, tokens: Int[Tensor, "*s"]) -> Bool[Tensor, "*s"]:
        if len(self.data_ids) == self.vocab_size - 1:
            return tokens != self.mask_id
        return super().is_data(tokens)

    def mask(self, x0: Int[Tensor, "b l"], where: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """x0 with the data tokens at `where` masked; other tokens stay."""
        return torch.where(where & self.is_data(x0), self.mask_id, x0)

    def corrupt(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], *, generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        check_time(t)
        u = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
        return self.mask(x0, u < self.schedule.mask_rate(t))

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
        kept = self.schedule.alpha(t) / self.schedule.alpha(s).clamp(min=TINY)
        return self.mask(x_s, u < 1 - kept)

    def log_marginal(
        self, log_p_x0: Float[Tensor, "b l k"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        kept = log_or_zero(self.schedule.alpha(t))[..., None].to(log_p_x0.dtype) + log_p_x0
        masked = log_or_zero(self.schedule.mask_rate(t))[..., None].to(kept.dtype)
        column = self.mask_column(kept.device)
        return torch.where(column, torch.logaddexp(kept, masked), kept).clamp(min=LOG_ZERO)

    def log_posterior(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """A mask stays with probability (1 - alpha_s) / (1 - alpha_t) or becomes x_0; others stay.

        Where p(x_0) gives the mask a probability p_m, its odds of staying rise: (1 - alpha_s +
        alpha_s p_m) to (alpha_s - alpha_t) for each of the rest (Austin et al. 2021, eq. 4).
        """
        check_time(t)
        check_time(s)
        stay = (self.schedule.mask_rate(s) / self.schedule.mask_rate(t))[..., None]  # (b, #l, 1)
        log_p = torch.log1p(-stay).to(log_p_x0.dtype) + log_p_x0
        log_p_mask = log_p_x0[..., self.mask_id, None]
        alpha_s, alpha_t, unkept = (
            rate[..., None].to(log_p.dtype)
            for rate in (
                self.schedule.alpha(s),
                self.schedule.alpha(t),
                self.schedule.mask_rate(t),
            )
        )
        log_mask = torch.logaddexp(
            stay.log().to(log_p.dtype), log_p_mask + (alpha_s / unkept).log()
        )
        column = self.mask_column(x_t.device)
        log_p = torch.where(column, log_mask, log_p) - torch.log1p(
            log_p_mask.exp() * alpha_t / unkept
        )
        return torch.where(self.is_masked(x_t)[..., None], log_p, log_one_hot(x_t, log_p))

    def log_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """At a mask the score is p(x_0 = y | x_t) / (e^sigma - 1), that of the mask itself 1.

        Ou et al. 2024 (RADD, arXiv:2406.03736). At a clean token it is 1 for itself, e^sigma - 1
        for the mask and 0 for others.
        """
        check_time(t)
        log_odds = self._log_odds(t)[..., None].to(log_p_x0.dtype)  # (b, #l, 1)
        column = self.mask_column(x_t.device)
        masked = torch.where(column, 0.0, log_p_x0 - log_odds)
        clean = torch.where(column, log_odds, log_one_hot(x_t, masked))
        return torch.where(self.is_masked(x_t)[..., None], masked, clean)

    def log_score_scale(self, t: Float[Tensor, "b #l"], n_tokens: int) -> Float[Tensor, "b #l"]:
        """-log(e^sigma - 1) - log(n_tokens): "scale by sigma" of Lou et al. 2024."""
        return -self._log_odds(t) - math.log(n_tokens)

    def log_x0_of_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_score: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        data = over_data(log_score, self.data_ids)
        return torch.where(self.is_masked(x_t)[..., None], data, log_one_hot(x_t, data))

    def log_jump_rate(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l"]:
        """log sigma'(t) for the mask; nothing jumps to another token."""
        log_rate = log_or_zero(-self.schedule.dalpha(t)) - self._log_alpha(t)
        return torch.where(self.is_masked(x_t), log_rate, LOG_ZERO)

    def _log_odds(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l"]:
        """log of (1 - alpha) / alpha, finite at either end."""
        return self.schedule.mask_rate(t).clamp(min=TINY).log() - self._log_alpha(t)

    def _log_alpha(self, t: Float[Tensor, "b #l"]) -> Float[Tensor, "b #l"]:
        return self.schedule.alpha(t).clamp(min=TINY).log()


def absorbing(process: Process, asker: str) -> Absorbing:
    """The process if it is an absorbing one; otherwise a UserError that names who needs it."""
    if not isinstance(process, Absorbing):
        raise UserError(
            f"{asker} counts masks, and needs an Absorbing process, not {type(process).__name__}; "
            "use another objective or sampler, or a model that was trained with masks alone."
        )
    return process


def resolve_data_ids(
    vocab_size: int, mask_id: int, data_ids: Sequence[int] | None
) -> tuple[int, ...]:
    """The tokens that diffuse, checked: by default all but the mask."""
    if not 0 <= mask_id < vocab_size:
        raise UserError(
            f"mask_id={mask_id} is not one of {vocab_size} tokens; use 0 .. {vocab_size - 1}."
        )
    if data_ids is None:
        return tuple(i for i in range(vocab_size) if i != mask_id)
    ids = tuple(sorted(set(data_ids)))
    if not ids or mask_id in ids or ids[0] < 0 or ids[-1] >= vocab_size:
        raise UserError(
            f"data_ids={list(data_ids)}: one or more tokens in 0 .. {vocab_size - 1} without the "
            f"mask {mask_id} are needed; leave data_ids out for all but the mask."
        )
    return ids


def over_data(logits: Float[Tensor, "*s k"], data_ids: tuple[int, ...]) -> Float[Tensor, "*s k"]:
    """log softmax with tokens outside data_ids at (about) LOG_ZERO."""
    return (logits + log_indicator(logits, data_ids)).log_softmax(-1)


def log_indicator(logits: Float[Tensor, "*s k"], data_ids: tuple[int, ...]) -> Float[Tensor, " k"]:
    """0 at data_ids and LOG_ZERO elsewhere: added to the logits, not written, as published."""
    return _indicator(data_ids, logits.shape[-1], logits.device).to(logits.dtype)


@lru_cache
def ids_on(device: torch.device | None, data_ids: tuple[int, ...]) -> Int[Tensor, " k"]:
    """Tokens as a tensor: of 50,257 it takes longer to make than a step of a sampler may."""
    return torch.tensor(data_ids, device=device)


@lru_cache
def _indicator(
    data_ids: tuple[int, ...], vocab_size: int, device: torch.device
) -> Float[Tensor, " k"]:
    indicator = torch.full((vocab_size,), LOG_ZERO, dtype=torch.float64)
    indicator[list(data_ids)] = 0.0
    return indicator.to(device)


def log_one_hot(x: Int[Tensor, "b l"], like: Float[Tensor, "*s k"]) -> Float[Tensor, "*s k"]:
    """Log-probabilities of the distribution that is sure of x, shape and dtype of `like`."""
    return torch.full_like(like, LOG_ZERO).scatter(-1, x[..., None], 0.0)


def log_uniform(process: Process, device: torch.device) -> Float[Tensor, "1 1 k"]:
    """log of the law by which all data tokens are equally likely, in float64."""
    log_p = torch.full((1, 1, process.vocab_size), LOG_ZERO, dtype=torch.float64, device=device)
    ids = ids_on(device, process.data_ids)
    return log_p.index_fill(-1, ids, -math.log(len(ids)))


def log_or_zero(p: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """log p, with LOG_ZERO for p = 0."""
    return torch.where(p > 0, p.clamp(min=torch.finfo(p.dtype).tiny).log(), LOG_ZERO)


def log_expm1(sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """log(e^sigma - 1) without overflow or cancellation."""
    return sigma + torch.log(-torch.expm1(-sigma))


def check_time(t: Tensor) -> None:
    """Refuses a time that broadcasting would take for a row of the batch."""
    if t.ndim != 2:
        raise ValueError(
            f"a time of shape {tuple(t.shape)} is not (b, 1) or (b, l); use t[:, None]."
        )
