"""The SUBS loss from given uniforms, with every intermediate."""

import torch
from torch import Tensor

from genodiff.diffusion import (
    Absorbing,
    ConstantWeight,
    ContinuousNelbo,
    DiscreteNelbo,
    ImportanceTimes,
    NetworkDenoiser,
    Subs,
    UniformTimes,
    mean_nats,
)
from genodiff.diffusion.times import stratify
from tests.parity.cases import Case
from tests.parity.mdlm import (
    TableNetwork,
    assert_close,
    assert_log_probabilities,
    importance_constant,
    importance_t_min,
    schedule_of,
)

# sigma and its dependants are recomputed from t; the reference's float32 cancels near t = 1.
RTOL = 2e-4


def check(case: Case) -> None:
    arrays, config = case.arrays, case.config
    # Cropped cases keep the tokens that the loss sees apart.
    x0 = arrays.get("input_tokens", arrays["x0"])
    weights = arrays.get("crop_attention_mask", arrays["attention_mask"])
    schedule = schedule_of(config["noise"])

    t_sampled = _sampled_times(case)
    assert_close(t_sampled[:, 0], arrays["t_sampled"], atol=1e-6, rtol=1e-5)

    # The change of variables is another clock, whose time the network is told in place of sigma.
    clock = schedule
    if config["change_of_variables"]:
        clock = ConstantWeight(schedule, importance_t_min(schedule))
    process = Absorbing(clock, config["vocab_size"], config["mask_index"])
    network = TableNetwork(case)
    model = NetworkDenoiser(
        network,
        process,
        Subs(config["vocab_size"], config["mask_index"]),
        config["time_conditioning"],
        told="time" if config["change_of_variables"] else "sigma",
    )

    t = arrays["t"].double()[:, None]
    assert_close(clock.mask_rate(t), arrays["move_chance"], atol=1e-5, rtol=RTOL)
    x_t = process.mask(x0, arrays["u_move"] < clock.mask_rate(t))
    assert torch.equal(x_t, arrays["xt"])
    if "sigma" in arrays:
        assert_close(clock.sigma(t)[:, 0], arrays["sigma"], atol=1e-5, rtol=RTOL)
        # At t = 1 the reference's float32 sin(pi) is not 0 and is divided by eps.
        atol = 2e-4 if config["noise"]["type"] == "cosinesqr" else 1e-5
        assert_close(clock.dsigma(t)[:, 0], arrays["dsigma"], atol=atol, rtol=RTOL)

    assert_log_probabilities(model.log_x0(x_t, t), arrays["model_output"], rtol=RTOL)
    assert_close(network.told[:, 0], arrays["backbone_sigma"], atol=1e-5, rtol=RTOL)

    if config["T"] > 0:
        _check_step_of(arrays["t_sampled"], arrays["t"], config["T"])
        nats = DiscreteNelbo(config["T"]).at(model, x0, x_t, t)
        # The reference clamps t to 1 - 1e-4 inside its loss.
        nats = nats * (t / t.clamp(max=1 - 1e-4))
    else:
        nats = ContinuousNelbo().at(model, x0, x_t, t)
        if config["importance_sampling"] or config["change_of_variables"]:
            nats = nats * (importance_constant(schedule) / clock.nelbo_weight(t))
    assert_close(nats, arrays["per_token_loss"], atol=1e-5, rtol=RTOL)
    assert_close(nats * weights, arrays["nlls"], atol=1e-5, rtol=RTOL)
    assert_close(mean_nats(nats, weights), arrays["loss"], atol=1e-5, rtol=RTOL)


def _sampled_times(case: Case) -> Tensor:
    """(b, 1): the published order of strata, clipped range, importance map."""
    schedule = schedule_of(case.config["noise"])
    u = case.arrays["u_t"].double()[:, None]
    u = stratify(u) if case.config["antithetic_sampling"] else u
    t = UniformTimes(case.config["sampling_eps"]).at(schedule, u).t
    if case.config["importance_sampling"]:
        t = ImportanceTimes(importance_t_min(schedule)).at(schedule, t).t
    return t


def _check_step_of(t_sampled: Tensor, t: Tensor, steps: int) -> None:
    """Times are rounded up to the grid; the reference adds a step where they lie on it already."""
    on_grid = (t_sampled * steps - (t_sampled * steps).round()).abs() < 1e-3
    rounded = torch.ceil(t_sampled.double() * steps) / steps
    assert_close(rounded[~on_grid], t[~on_grid], atol=1e-6, rtol=0)
