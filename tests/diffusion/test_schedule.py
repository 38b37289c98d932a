"""Schedules against calculus: derivative, inverse, weight, precision."""

import pytest
import torch

from genodiff.diffusion import (
    ConstantWeight,
    Cosine,
    CosineSquared,
    Geometric,
    Linear,
    LogLinear,
    NoiseSchedule,
    Polynomial,
)
from genodiff.errors import UserError

SCHEDULES = [
    LogLinear(),
    LogLinear(eps=0.0),
    Cosine(),
    CosineSquared(),
    Linear(),
    Linear(sigma_min=1e-3, sigma_max=7.0),
    Geometric(),
    Geometric(sigma_min=1e-3, sigma_max=1.0),
    Polynomial(power=0.5),
    Polynomial(power=3.0, eps=1e-4),
    ConstantWeight(LogLinear()),
    ConstantWeight(Linear(sigma_min=1e-3, sigma_max=7.0), t_min=0.0),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
GRID = torch.linspace(0.001, 0.999, 97, dtype=torch.float64)


@every_schedule
def test_dalpha_is_the_derivative_of_alpha(schedule: NoiseSchedule) -> None:
    t = GRID.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.dalpha(GRID), derivative, rtol=1e-9, atol=1e-12)


@every_schedule
def test_dsigma_is_the_derivative_of_sigma(schedule: NoiseSchedule) -> None:
    t = GRID.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    torch.testing.assert_close(schedule.dsigma(GRID), derivative, rtol=1e-9, atol=1e-12)


@every_schedule
def test_inverse_undoes_alpha(schedule: NoiseSchedule) -> None:
    torch.testing.assert_close(schedule.inverse(schedule.alpha(GRID)), GRID, rtol=1e-9, atol=1e-9)


@every_schedule
def test_inverse_of_values_never_reached_is_the_nearer_end(schedule: NoiseSchedule) -> None:
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert schedule.inverse(ends).tolist() == [0.0, 1.0]


@every_schedule
def test_alpha_falls_from_about_one(schedule: NoiseSchedule) -> None:
    alpha = schedule.alpha(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (alpha.diff() < 0).all()
    assert 0.99 < alpha[0] <= 1
    assert alpha[-1] >= 0


@every_schedule
def test_derived_quantities_are_what_they_are_called(schedule: NoiseSchedule) -> None:
    # atol: 1 - alpha in float64; the weight divides by it, so it is compared multiplied out.
    alpha, dalpha = schedule.alpha(GRID), schedule.dalpha(GRID)
    torch.testing.assert_close(schedule.mask_rate(GRID), 1 - alpha, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(schedule.sigma(GRID), -alpha.log(), rtol=1e-9, atol=1e-15)
    weighted = schedule.nelbo_weight(GRID) * (1 - alpha)
    torch.testing.assert_close(weighted, -dalpha, rtol=1e-6, atol=1e-12)


@every_schedule
def test_float32_keeps_its_relative_precision_at_both_ends(schedule: NoiseSchedule) -> None:
    # 1e-5 is some hundred times the spacing of float32: 1 - alpha(t) would have no digit right at
    # t = 1e-7, and 1 - 0.999 t would lose five at t = 1.
    t = torch.cat([torch.logspace(-7, -2, 6), 1 - torch.logspace(-7, -2, 6), torch.ones(1)])
    for quantity in (schedule.mask_rate, schedule.sigma, schedule.nelbo_weight, schedule.dsigma):
        exact = quantity(t.double())
        defined = exact.isfinite()
        torch.testing.assert_close(
            quantity(t).double()[defined], exact[defined], rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.2])
def test_loglinear_weight_is_one_over_t(eps: float) -> None:
    torch.testing.assert_close(LogLinear(eps).nelbo_weight(GRID), 1 / GRID)


def test_constant_weight_runs_through_the_same_mask_rates() -> None:
    inner = Cosine()
    schedule = ConstantWeight(inner, t_min=0.01)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        schedule.mask_rate(ends), inner.mask_rate(torch.tensor([0.01, 1.0]).double())
    )
    weight = schedule.nelbo_weight(GRID)
    torch.testing.assert_close(weight, torch.full_like(weight, float(weight[0])))


@pytest.mark.parametrize("make", [LogLinear, Cosine, CosineSquared])
@pytest.mark.parametrize("eps", [-0.1, 1.0, float("nan")])
def test_eps_outside_its_range_is_refused(make: type, eps: float) -> None:
    with pytest.raises(UserError, match=r"eps=.* is in \[0, 1\); use"):
        make(eps)


def test_other_impossible_schedules_are_refused() -> None:
    with pytest.raises(UserError, match=r"power=0\.0 is not positive"):
        Polynomial(power=0.0)
    with pytest.raises(
        UserError, match=r"sigma_min=2\.0, sigma_max=1\.0: the noise must grow from at least 0"
    ):
        Linear(sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(UserError, match=r"sigma_min=0\.0, .*from above 0"):
        Geometric(sigma_min=0.0)
    with pytest.raises(UserError, match=r"t_min=0\.0: the NELBO weight is not integrable"):
        ConstantWeight(LogLinear(), t_min=0.0)
