"""How the times of a training batch are drawn.

A draw gives times and their importance weights 1/density, so that mean(weight * f(t)) is an
unbiased estimate of the integral of f over [t_min, 1], whichever way they were drawn. Times have
shape (b, 1): one a row.
"""

import abc
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from genodiff.diffusion.schedule import NoiseSchedule
from genodiff.errors import UserError


class TimeSample(NamedTuple):
    """Times and importance weights of a batch, float64."""

    t: Tensor  # (b, 1), or (b, l) for a time a token; in (t_min, 1]
    weight: Tensor  # the same shape: 1 / density of t


class Times(abc.ABC):
    """A way to draw times."""

    stratified: bool

    @abc.abstractmethod
    def at(self, schedule: NoiseSchedule, u: Float[Tensor, "b #l"]) -> TimeSample:
        """The times of given uniforms in (0, 1]: the deterministic part of a draw."""

    def __call__(
        self,
        schedule: NoiseSchedule,
        rows: int,
        *,
        generator: Generator | None,
        device: torch.device | None = None,
    ) -> TimeSample:
        """One time a row."""
        return self.at(
            schedule, uniforms(rows, self.stratified, generator=generator, device=device)
        )


@dataclass(frozen=True)
class UniformTimes(Times):
    """Independent uniform times on (t_min, 1].

    `average=True` gives weights 1 in place of 1 - t_min: the mean of the integrand and not its
    integral, which with t_min=1e-3 is what MDLM reports.
    """

    t_min: float = 0.0
    average: bool = False

    stratified = False

    def __post_init__(self) -> None:
        _check_t_min(self.t_min)

    def at(self, schedule: NoiseSchedule, u: Float[Tensor, "b #l"]) -> TimeSample:
        return _uniform_times(u, self.t_min, self.average)


@dataclass(frozen=True)
class AntitheticTimes(Times):
    """Uniform times on (t_min, 1], one in each of b equal strata ("antithetic sampling" in MDLM).

    Less variance than `UniformTimes` for the same cost. Options as there.
    """

    t_min: float = 0.0
    average: bool = False

    stratified = True

    def __post_init__(self) -> None:
        _check_t_min(self.t_min)

    def at(self, schedule: NoiseSchedule, u: Float[Tensor, "b #l"]) -> TimeSample:
        return _uniform_times(u, self.t_min, self.average)


@dataclass(frozen=True)
class ImportanceTimes(Times):
    """Times on (t_min, 1] with density proportional to the NELBO weight: log mask_rate is uniform.

    weight * nelbo_weight is then the same for every row, log mask_rate(1) - log mask_rate(t_min).
    `constant` sets it to another value; MDLM takes -log(1 - exp(-sigma_min)), which leaves the
    other end of the range out. The density does not reach a t_min at which nothing is masked: give
    one above 0.
    """

    t_min: float = 1e-3
    stratified: bool = True
    constant: float | None = None

    def __post_init__(self) -> None:
        _check_t_min(self.t_min)

    def at(self, schedule: NoiseSchedule, u: Float[Tensor, "b #l"]) -> TimeSample:
        ends = torch.tensor([self.t_min, 1.0], dtype=torch.float64)
        first, last = schedule.mask_rate(ends).log().tolist()
        if first == -math.inf:
            raise UserError(
                f"t_min={self.t_min} leaves no token masked, so importance sampling never reaches "
                "it; use e.g. t_min=1e-3, or uniform or antithetic times."
            )
        mask_rate = (first + u * (last - first)).exp()
        t = schedule.inverse(1 - mask_rate)
        constant = last - first if self.constant is None else self.constant
        return TimeSample(t, constant / schedule.nelbo_weight(t))


def uniforms(
    rows: int, stratified: bool, *, generator: Generator | None, device: torch.device | None = None
) -> Float[Tensor, "rows 1"]:
    """Uniform numbers in (0, 1], float64: independent, or one a stratum in random order.

    The random order makes every row's number uniform on its own. Without it a fixed row would
    always meet the same stratum, and the estimate for a fixed batch would be biased.
    """
    u = 1 - torch.rand(rows, 1, dtype=torch.float64, device=device, generator=generator)
    if not stratified:
        return u
    return stratify(u)[torch.randperm(rows, device=device, generator=generator)]


def stratify(u: Float[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
    """Squeezes the uniform of row i into the i-th of b equal strata of (0, 1]."""
    rows = len(u)
    return (u + torch.arange(rows, dtype=u.dtype, device=u.device)[:, None]) / rows


def _uniform_times(u: Float[Tensor, "b #l"], t_min: float, average: bool) -> TimeSample:
    return TimeSample(t_min + (1 - t_min) * u, torch.full_like(u, 1.0 if average else 1 - t_min))


def _check_t_min(t_min: float) -> None:
    if not 0 <= t_min < 1:
        raise UserError(
            f"t_min={t_min}: times lie in (t_min, 1] with t_min in [0, 1); use e.g. t_min=0.0."
        )
