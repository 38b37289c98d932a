"""How a network's logits are read as log p(x_0), the distribution that a process takes.

A parameterization never changes the logits it is given, and gives finite numbers: `LOG_ZERO`
stands for log 0.
"""

import abc
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genodiff.diffusion.chunked_head import Readout
from genodiff.diffusion.process import (
    LOG_ZERO,
    Absorbing,
    Process,
    log_one_hot,
    over_data,
    resolve_data_ids,
)
from genodiff.errors import UserError


class Parameterization(abc.ABC):
    """A reading of logits (b, l, k). `data_ids` are the values of x_0, as in the process."""

    mask_id: int
    data_ids: tuple[int, ...]

    @property
    def data_only(self) -> bool:
        """Whether log_x0 gives the mask no probability at a mask."""
        return True

    @abc.abstractmethod
    def log_x0(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        """log p(x_0), normalised over k."""

    def log_likelihood(
        self,
        readout: Readout,
        x0: Int[Tensor, " m"],
        x_t: Int[Tensor, " m"],
        t: Float[Tensor, " m"],
        process: Process,
    ) -> Float[Tensor, " m"]:
        """log p(x_0) of a given x_0 a row."""

        def read(logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            log_x0 = self.log_x0(logits[None], x_t[None], t[None], process)[0]
            return log_x0.gather(-1, x0[:, None])[:, 0]

        return readout.by_row(read, x0, x_t, t)

    def log_score(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        """log of the concrete score q_t(y) / q_t(x_t): by default what log_x0 implies."""
        return process.log_score(x_t, self.log_x0(logits, x_t, t, process), t)

    def check(self, process: Process) -> None:
        """Raises UserError if this is no reading for the process."""
        if process.data_ids != self.data_ids:
            raise UserError(
                f"the process diffuses tokens {_few(process.data_ids)} and the parameterization "
                f"predicts {_few(self.data_ids)}; give both the same data_ids."
            )


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
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        log_p = over_data(logits, self.data_ids)
        return torch.where((x_t == self.mask_id)[..., None], log_p, log_one_hot(x_t, log_p))

    def check(self, process: Process) -> None:
        super().check(process)
        if not isinstance(process, Absorbing):
            raise UserError(
                f"Subs carries clean tokens over, which holds for masking alone, not for "
                f"{process!r}; use the parameterization Mean with subs_masking=true."
            )

    def log_likelihood(
        self,
        readout: Readout,
        x0: Int[Tensor, " m"],
        x_t: Int[Tensor, " m"],
        t: Float[Tensor, " m"],
        process: Process,
    ) -> Float[Tensor, " m"]:
        log_p = readout.log_softmax_at(x0, self.data_ids)
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

    @property
    def data_only(self) -> bool:
        return self.subs_masking

    def log_x0(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        return over_data(logits, self.data_ids) if self.subs_masking else logits.log_softmax(-1)

    def log_likelihood(
        self,
        readout: Readout,
        x0: Int[Tensor, " m"],
        x_t: Int[Tensor, " m"],
        t: Float[Tensor, " m"],
        process: Process,
    ) -> Float[Tensor, " m"]:
        return readout.log_softmax_at(x0, self.data_ids if self.subs_masking else None)


class Score(Parameterization):
    """The network gives the score, as a multiple of what it would be if nothing were known.

    Lou et al. 2024 (SEDD, arXiv:2310.16834). For masking log s_y = logits - log(e^sigma - 1) -
    log(k - 1) ("scale by sigma") with k = `vocab_size`, for uniform noise log s_y = logits. A
    network's scores need not be those of a distribution; `log_x0` is the nearest one.
    """

    def __init__(
        self, vocab_size: int, mask_id: int, data_ids: Sequence[int] | None = None
    ) -> None:
        self.mask_id = mask_id
        self.vocab_size = vocab_size
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)

    def log_x0(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        return process.log_x0_of_score(x_t, self.log_score(logits, x_t, t, process), t)

    def log_score(
        self,
        logits: Float[Tensor, "b l k"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        process: Process,
    ) -> Float[Tensor, "b l k"]:
        scale = process.log_score_scale(t, self.vocab_size - 1)[..., None].to(logits.dtype)
        return (logits + scale).scatter(-1, x_t[..., None], 0.0)


def _few(ids: tuple[int, ...]) -> str:
    """A few of many token ids, for a message."""
    return str(list(ids)) if len(ids) <= 8 else f"{list(ids[:4])} and {len(ids) - 4} more"
