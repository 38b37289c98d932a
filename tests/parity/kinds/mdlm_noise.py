"""Noise schedules: total noise, rate, and what the training code makes of them."""

import math

import torch

from genodiff.diffusion import ImportanceTimes
from tests.parity.cases import Case
from tests.parity.mdlm import assert_close, importance_t_min, schedule_of, sigma_min_of


def check(case: Case) -> None:
    arrays = case.arrays
    schedule = schedule_of(case.config)
    t = arrays["t"].double()
    # Beyond 0.99 the reference computes 1 - (1 - eps) t in float32, which cancels.
    early, late = t <= 0.99, t > 0.99
    late_rtol = 2e-3 if case.config.get("eps", 1.0) < 1e-3 else 3e-4
    # At t = 1 its float32 sin(pi) is not 0 and is divided by eps.
    atol = 2e-4 if case.config["type"] == "cosinesqr" else 0.0
    sigma, dsigma = schedule.sigma(t), schedule.dsigma(t)
    assert_close(sigma[early], arrays["sigma"][early], atol=1e-6, rtol=1e-5)
    assert_close(sigma[late], arrays["sigma"][late], atol=1e-6, rtol=2e-4)
    assert_close(dsigma[early], arrays["dsigma"][early], atol=atol, rtol=1e-5)
    assert_close(dsigma[late], arrays["dsigma"][late], atol=atol, rtol=late_rtol)
    assert_close(schedule.alpha(t), arrays["alpha"], atol=1e-6, rtol=0)
    assert_close(schedule.mask_rate(t), arrays["move_chance"], atol=1e-6, rtol=0)
    if "t_importance" in arrays:
        times = ImportanceTimes(importance_t_min(schedule))
        drawn = times.at(schedule, t[:, None]).t[:, 0]
        assert_close(drawn, arrays["t_importance"], atol=1e-6, rtol=1e-4)
        one = torch.ones((), dtype=torch.float64)
        sigma_min = sigma_min_of(schedule)
        assert_close(torch.tensor(sigma_min), arrays["sigma_min"], atol=1e-6, rtol=1e-5)
        assert_close(schedule.sigma(one), arrays["sigma_max"], atol=1e-6, rtol=2e-4)
        f_0 = torch.tensor(math.log(-math.expm1(-sigma_min)))
        # 1e-4: the reference takes 1 - exp(-sigma_min) in float32.
        assert_close(f_0, arrays["f_0"], atol=1e-6, rtol=1e-4)
        assert_close(schedule.mask_rate(one).log(), arrays["f_T"], atol=1e-6, rtol=2e-4)
