"""How a network's logits are read as log p(x_0 | x_t).

A parameterization never changes the logits it is given, and gives finite numbers: `LOG_ZERO`
stands for log 0.
"""

import abc
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from genodiff.diffusion.process import LOG_ZERO, Process, log_expm1, log_one_hot, resolve_data_ids


class Parameterization(abc.ABC):
    """A reading of logits (b, l, k). `data_ids` are the values of x_0, as in the process."""

    mask_id: int
    data_ids: tuple[int, ...]

    @abc.abstractmethod
    def log_x0(
        self, logits: Float[Tensor, "b l k"], x_t: Int[Tensor, "b l"], sigma: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        """log p(x_0 | x_t), normalised over k."""

    def log_likelihood(
        self,
        logits: Float[Tensor, "b l k"],
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l"]:
        """log p(x_0 | x_t) of a given x_0."""
        return self.log_x0(logits, x_t, sigma).gather(-1, x0[..., None])[..., 0]

    def log_score(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        """log of the concrete score p_t(y) / p_t(x_t): by default what log_x0 implies."""
        return process.log_score(x_t, self.log_x0(logits, x_t, sigma), sigma)


class Subs(Parameterization):
    """Substitution: a clean token is carried over, a mask becomes a data token.

    SUBS of Sahoo et al. 2024 (arXiv:2406.07524). Published code forbids only the mask; here every
    token that is not data has probability zero.
    """

    def __init__(
        self, vocab_size: int, mask_id: int, data_ids: Sequence[int] | None = None
    ) -> None:
        self.mask_id = mask_id
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)

    def log_x0(
        self, logits: Float[Tensor, "b l k"], x_t: Int[Tensor, "b l"], sigma: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        return _substituted(logits, x_t, self.mask_id, self.data_ids)

    def log_likelihood(
        self,
        logits: Float[Tensor, "b l k"],
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l"]:
        restricted = logits + _log_indicator(logits, self.data_ids)
        # Flat: for a vocabulary axis in the middle torch would copy the logits.
        nats = F.cross_entropy(restricted.flatten(0, 1), x0.flatten(), reduction="none")
        log_p = -nats.view_as(x0)
        kept = torch.where(x0 == x_t, 0.0, LOG_ZERO)
        return torch.where(x_t == self.mask_id, log_p, kept.to(log_p.dtype))


class Mean(Parameterization):
    """The distribution of x_0 at every token, clean ones too.

    Austin et al. 2021 (D3PM, arXiv:2107.03006). Any token may have probability, the mask included,
    unless `subs_masking` restricts it to the data tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        mask_id: int,
        data_ids: Sequence[int] | None = None,
        *,
        subs_masking: bool = False,
    ) -> None:
        self.mask_id = mask_id
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)
        self.subs_masking = subs_masking

    def log_x0(
        self, logits: Float[Tensor, "b l k"], x_t: Int[Tensor, "b l"], sigma: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        return _over_data(logits, self.data_ids) if self.subs_masking else logits.log_softmax(-1)


class Score(Parameterization):
    """The network gives the score itself: log s_y = logits - log(e^sigma - 1) - log(k - 1).

    Lou et al. 2024 (SEDD, arXiv:2310.16834), "scale by sigma". At a mask the true score is p(x_0 =
    y) / (e^sigma - 1); a network's need not sum to that, so `log_x0` normalises it over the data
    tokens.
    """

    def __init__(
        self, vocab_size: int, mask_id: int, data_ids: Sequence[int] | None = None
    ) -> None:
        self.mask_id = mask_id
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)

    def log_x0(
        self, logits: Float[Tensor, "b l k"], x_t: Int[Tensor, "b l"], sigma: Float[Tensor, "b #l"]
    ) -> Float[Tensor, "b l k"]:
        return _substituted(logits, x_t, self.mask_id, self.data_ids)

    def log_score(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        log_odds = log_expm1(sigma)[..., None].to(logits.dtype)
        log_s = logits - log_odds - math.log(logits.shape[-1] - 1)
        return log_s.scatter(-1, x_t[..., None], 0.0)


def _substituted(
    logits: Float[Tensor, "b l k"],
    x_t: Int[Tensor, "b l"],
    mask_id: int,
    data_ids: tuple[int, ...],
) -> Float[Tensor, "b l k"]:
    """A distribution over the data at masks, certainty of x_t elsewhere."""
    log_p = _over_data(logits, data_ids)
    return torch.where((x_t == mask_id)[..., None], log_p, log_one_hot(x_t, log_p))


def _over_data(
    logits: Float[Tensor, "b l k"], data_ids: tuple[int, ...]
) -> Float[Tensor, "b l k"]:
    """log softmax with tokens outside data_ids at (about) LOG_ZERO."""
    return (logits + _log_indicator(logits, data_ids)).log_softmax(-1)


def _log_indicator(
    logits: Float[Tensor, "b l k"], data_ids: tuple[int, ...]
) -> Float[Tensor, " k"]:
    """0 at data_ids and LOG_ZERO elsewhere: added to the logits, not written, as published."""
    indicator = logits.new_full((logits.shape[-1],), LOG_ZERO)
    indicator[torch.tensor(data_ids, device=logits.device)] = 0.0
    return indicator
