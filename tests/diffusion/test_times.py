"""Every way to draw times estimates the same integral."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genodiff.diffusion import (
    AntitheticTimes,
    Cosine,
    ImportanceTimes,
    Linear,
    LogLinear,
    NoiseSchedule,
    Times,
    UniformTimes,
)
from genodiff.diffusion.times import stratify, uniforms
from genodiff.errors import UserError
from tests.toy import gauss_legendre

T_MIN = 0.01
EVERY = [UniformTimes(T_MIN), AntitheticTimes(T_MIN), ImportanceTimes(T_MIN)]


@pytest.mark.parametrize("times", EVERY, ids=repr)
@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Linear(sigma_max=2.0)], ids=repr)
@pytest.mark.parametrize("f", [torch.ones_like, torch.exp, lambda t: 1 / t])
def test_weighted_mean_is_the_integral(
    times: Times, schedule: NoiseSchedule, f: Callable[[Tensor], Tensor]
) -> None:
    # Exact expectation over the uniforms, by quadrature; 60 nodes integrate these to 1e-9.
    u, node_weight = gauss_legendre(0.0, 1.0, 60)
    t, weight = times.at(schedule, u[:, None])
    estimate = node_weight @ (weight * f(t))[:, 0]
    nodes, node_weight = gauss_legendre(T_MIN, 1.0, 60)
    torch.testing.assert_close(estimate, node_weight @ f(nodes), rtol=1e-7, atol=0)


def test_importance_times_make_every_weighted_term_equal() -> None:
    schedule = Cosine()
    t, weight = ImportanceTimes(T_MIN)(schedule, 50, generator=torch.Generator().manual_seed(0))
    ends = schedule.mask_rate(torch.tensor([T_MIN, 1.0], dtype=torch.float64)).log()
    constant = (ends[1] - ends[0]).expand(50, 1)
    torch.testing.assert_close(weight * schedule.nelbo_weight(t), constant)


def test_importance_constant_can_be_that_of_the_published_code() -> None:
    t, weight = ImportanceTimes(T_MIN, constant=6.9)(LogLinear(), 50, generator=None)
    torch.testing.assert_close(weight / t, torch.full_like(t, 6.9))


@pytest.mark.parametrize("stratified", [False, True])
def test_uniforms_lie_in_the_half_open_interval(stratified: bool) -> None:
    u = uniforms(10_000, stratified, generator=torch.Generator().manual_seed(0))
    assert u.dtype == torch.float64
    assert ((u > 0) & (u <= 1)).all()


def test_stratified_uniforms_fill_every_stratum_once_in_random_order() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (uniforms(16, True, generator=generator)[:, 0] for _ in range(2))
    strata = [(16 * u).ceil().to(torch.int64).tolist() for u in (first, second)]
    assert sorted(strata[0]) == sorted(strata[1]) == list(range(1, 17))
    assert strata[0] != strata[1]


def test_each_row_of_a_stratified_draw_is_uniform_on_its_own() -> None:
    # The mean of row 0 over 2000 batches of 4: |mean - 1/2| < 5 sd fails by chance once in 10^6.
    generator = torch.Generator().manual_seed(0)
    row = torch.stack([uniforms(4, True, generator=generator)[0] for _ in range(2000)])
    assert abs(float(row.mean()) - 0.5) < 5 * (1 / 12 / 2000) ** 0.5


def test_strata_in_row_order_are_those_of_the_published_code() -> None:
    u = torch.tensor([[0.5], [0.1], [0.9]])
    torch.testing.assert_close(stratify(u), torch.tensor([[0.5], [1.1], [2.9]]) / 3)


def test_average_reports_the_mean_and_not_the_integral() -> None:
    for make in (UniformTimes, AntitheticTimes):
        integral, average = (
            make(t_min=0.1, average=average)(LogLinear(), 4, generator=None).weight
            for average in (False, True)
        )
        assert torch.equal(average, torch.ones(4, 1, dtype=torch.float64))
        torch.testing.assert_close(integral, 0.9 * average)


@pytest.mark.parametrize("make", [UniformTimes, AntitheticTimes, ImportanceTimes])
@pytest.mark.parametrize("t_min", [-0.1, 1.0])
def test_a_range_outside_the_unit_interval_is_refused(make: type, t_min: float) -> None:
    with pytest.raises(UserError, match=r"t_min=.*\(t_min, 1\] with t_min in \[0, 1\); use"):
        make(t_min=t_min)


def test_importance_times_down_to_a_clean_sequence_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"t_min=0\.0 leaves no token masked.*use e\.g\. t_min=1e-3"
    ):
        ImportanceTimes(t_min=0.0)(LogLinear(), 4, generator=None)
