"""Forward processes q(x_t | x_0) of discrete diffusion, and what follows from them alone.

A process says how tokens are corrupted, and, given a distribution over the clean tokens, how they
come back: the posterior q(x_s | x_t) for s < t. Times have shape (b, 1), one a row, or (b, l), one
a token; never (b,).
"""

import abc
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.schedule import NoiseSchedule
from genodiff.errors import UserError

LOG_ZERO = -1e6
"""The log-probability that stands for zero: finite, so that sums and gradients hold no NaN."""


class Process(abc.ABC):
    """A corruption process over tokens 0 .. vocab_size - 1, of which `data_ids` diffuse."""

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
    def log_posterior(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """log of sum over x_0 of q(x_s | x_t, x_0) p(x_0), for s <= t."""

    @abc.abstractmethod
    def log_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        sigma: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """log of the concrete score p_t(y) / p_t(x_t) that p(x_0 | x_t) implies (SEDD)."""

    def posterior(
        self,
        x_t: Int[Tensor, "b l"],
        p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """`log_posterior` in probabilities."""
        return self.log_posterior(x_t, p_x0.log().clamp(min=LOG_ZERO), t, s).exp()


class Absorbing(Process):
    """Masking: a data token is replaced by the mask with probability 1 - alpha(t).

    Sahoo et al. 2024 (arXiv:2406.07524). `data_ids` are the tokens that diffuse, by default all
    but the mask. The others (N, padding, special tokens) are never masked, so that nothing is
    learnt or drawn there.
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

    def is_masked(self, x_t: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return x_t == self.mask_id

    def is_data(self, tokens: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Whether a token is one of `data_ids`, i.e. takes part in the diffusion."""
        if len(self.data_ids) == self.vocab_size - 1:
            return tokens != self.mask_id
        return torch.isin(tokens, torch.tensor(self.data_ids, device=tokens.device))

    def mask(self, x0: Int[Tensor, "b l"], where: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """x0 with the data tokens at `where` masked; other tokens stay."""
        return torch.where(where & self.is_data(x0), self.mask_id, x0)

    def corrupt(
        self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], *, generator: Generator | None
    ) -> Int[Tensor, "b l"]:
        check_time(t)
        u = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
        return self.mask(x0, u < self.schedule.mask_rate(t))

    def log_posterior(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """A mask stays with probability (1 - alpha_s) / (1 - alpha_t) or becomes x_0; others stay.

        Sahoo et al. 2024. Where p(x_0) gives the mask itself a probability, that stays
        masked too.
        """
        check_time(t)
        check_time(s)
        stay = (self.schedule.mask_rate(s) / self.schedule.mask_rate(t))[..., None]  # (b, #l, 1)
        log_p = torch.log1p(-stay) + log_p_x0
        log_mask = torch.logaddexp(log_p[..., self.mask_id, None], stay.log().to(log_p.dtype))
        log_p = torch.where(self.mask_column(x_t.device), log_mask, log_p)
        return torch.where(self.is_masked(x_t)[..., None], log_p, log_one_hot(x_t, log_p))

    def log_score(
        self,
        x_t: Int[Tensor, "b l"],
        log_p_x0: Float[Tensor, "b l k"],
        sigma: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """At a mask the score is p(x_0 = y | x_t) / (e^sigma - 1), that of the mask itself 1.

        Ou et al. 2024 (RADD, arXiv:2406.03736). At a clean token it is 1 for itself, e^sigma - 1
        for the mask and 0 for others.
        """
        check_time(sigma)
        log_odds = log_expm1(sigma)[..., None]  # (b, #l, 1): log of (1 - alpha) / alpha
        column = self.mask_column(x_t.device)
        masked = torch.where(column, 0.0, log_p_x0 - log_odds)
        clean = torch.where(column, log_odds, log_one_hot(x_t, masked))
        return torch.where(self.is_masked(x_t)[..., None], masked, clean)


def absorbing(process: Process, asker: str) -> Absorbing:
    """The process if it is an absorbing one; otherwise a TypeError that names who needs it."""
    if not isinstance(process, Absorbing):
        raise TypeError(
            f"{asker} counts masked tokens and needs an Absorbing process, got {process!r}."
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


def log_one_hot(x: Int[Tensor, "b l"], like: Float[Tensor, "b l k"]) -> Float[Tensor, "b l k"]:
    """Log-probabilities of the distribution that is sure of x, shape and dtype of `like`."""
    return torch.full_like(like, LOG_ZERO).scatter(-1, x[..., None], 0.0)


def log_expm1(sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """log(e^sigma - 1) without overflow or cancellation."""
    return sigma + torch.log(-torch.expm1(-sigma))


def check_time(t: Tensor) -> None:
    """Refuses a time that broadcasting would take for a row of the batch."""
    if t.ndim != 2:
        raise ValueError(
            f"a time of shape {tuple(t.shape)} is not (b, 1) or (b, l); use t[:, None]."
        )
