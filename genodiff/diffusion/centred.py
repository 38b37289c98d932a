"""A bound whose estimate is freed of what no model decides."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.chunked_head import in_chunks
from genodiff.diffusion.denoiser import Denoiser, Said, rows_at
from genodiff.diffusion.learned_absorbing import LearnedAbsorbing
from genodiff.diffusion.objective import DenoisingObjective, DiscreteNelbo, Noised, TimedObjective
from genodiff.diffusion.process import Process, log_uniform
from genodiff.diffusion.times import ImportanceTimes
from genodiff.errors import UserError


class Uninformed(Denoiser):
    """p(x_0) uniform over the data tokens, whatever the others are: exact for random letters."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.time_conditioning = False

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return log_uniform(self.process, x_t.device).to(t.dtype).expand(*x_t.shape, -1)

    def read_at(
        self,
        said: Said,
        read: Callable[..., Float[Tensor, " n"]],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        rows: Sequence[Tensor],
        condition: Tensor | None = None,
    ) -> Float[Tensor, " m"]:
        def of(x_t: Tensor, t: Tensor, *rows: Tensor) -> Tensor:
            return read(getattr(self, said)(x_t[None], t[None])[0], *rows)

        here = (rows_at(x, where)[0] for x in (x_t, t))
        return in_chunks(of, self.process.vocab_size, *here, *rows)


@dataclass(frozen=True)
class Centred(DenoisingObjective):
    """The bound of `objective`, less the error that `Uninformed` makes on the same noise.

    For K letters drawn at random `Uninformed` is exact, so the mean of its bound, ends included,
    is log K. On given noise it shares with the model what the noise alone decides: how many tokens
    were hit, and how unlikely that was. Without that share an estimate has a fraction of its
    variance, if times are drawn alike: importance weights would make log K random. The mean and
    the gradients are those of `objective`.
    """

    objective: TimedObjective

    kind = "bound"

    def __post_init__(self) -> None:
        if not _can_be_centred(self.objective):
            raise UserError(
                f"Centred({self.objective}): only a bound whose times are drawn alike can be "
                "centred; use the objective itself."
            )

    @staticmethod
    def fits(objective: object, process: object) -> bool:
        """Whether `Centred(objective)` is a bound under `process`, and of use."""
        if not isinstance(objective, TimedObjective) or isinstance(process, LearnedAbsorbing):
            return False
        return _can_be_centred(objective)

    @property
    def stratified(self) -> bool:
        return self.objective.stratified

    def noise(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        u: Float[Tensor, "b 1"],
        *,
        generator: Generator | None,
    ) -> Noised:
        return self.objective.noise(model, x0, u, generator=generator)

    def at(
        self,
        model: Denoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        process = model.process
        nats = self.objective.at(model, x0, x_t, t, condition)
        with torch.no_grad():
            uninformed = self._control.at(Uninformed(process), x0, x_t, t)
            # The draw will be multiplied with the time that is covered.
            mean = math.log(len(process.data_ids)) / (1 - self.objective.times.t_min)
            error = torch.where(process.is_data(x0), uninformed - mean, 0.0)
        return nats - error.to(nats.dtype)

    @property
    def _control(self) -> TimedObjective:
        """The objective without a reconstruction of its own, ends included."""
        changes: dict[str, Any] = {"ends": True}
        if isinstance(self.objective, DiscreteNelbo):
            changes["reconstruct"] = False
        return replace(self.objective, **changes)  # pyright: ignore[reportArgumentType]  # each is a dataclass


def _can_be_centred(objective: TimedObjective) -> bool:
    return objective.kind == "bound" and not isinstance(objective.times, ImportanceTimes)
