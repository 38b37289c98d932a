"""One reverse step of each published sampler: probabilities, draws, next tokens."""

import torch
from torch import Tensor

from genodiff.diffusion import Absorbing, LogLinear, Rescheduled, Tweedie
from genodiff.diffusion.categorical import reference_race
from tests.parity.cases import Case
from tests.parity.mdlm import (
    PublishedTransition,
    TableNetwork,
    assert_close,
    assert_log_probabilities,
    denoiser_of,
)


def check(case: Case) -> None:
    arrays, config = case.arrays, case.config
    denoiser = denoiser_of(case)
    schedule = denoiser.process.schedule
    x, t = arrays["x"], arrays["t"].double()
    s = t - arrays["dt"].double()
    masked = x == config["mask_index"]

    assert_close(schedule.sigma(t), arrays["sigma_t"], atol=1e-6, rtol=2e-4)
    assert_close(schedule.sigma(s), arrays["sigma_s"], atol=1e-6, rtol=2e-4)
    is_score = config["parameterization"] == "sedd"
    output = denoiser.log_score(x, t) if is_score else denoiser.log_x0(x, t)
    assert_log_probabilities(output, arrays["model_output"], rtol=1e-4)
    assert isinstance(denoiser.network, TableNetwork)
    assert_close(denoiser.network.told[:, 0], arrays["backbone_sigma"], atol=1e-6, rtol=2e-4)

    if "ddpm_probs" in arrays:
        # The published step leaves its probabilities unnormalised: they sum to the mask rate at t.
        log_p = PublishedTransition(denoiser).log_transition(x, t, s)
        _check_step(case, "ddpm", log_p, schedule.mask_rate(t))
    if "ddpm_cache_probs" in arrays:
        # The cached variant takes t for the mask rate, whatever the schedule.
        identity = Absorbing(LogLinear(eps=0.0), config["vocab_size"], config["mask_index"])
        log_p = PublishedTransition(Rescheduled(denoiser, identity)).log_transition(x, t, s)
        _check_step(case, "ddpm_cache", log_p, t)
        assert_close(output.exp(), arrays["ddpm_cache_p_x0"], atol=1e-6, rtol=1e-4)
    if "analytic_probs" in arrays:
        score = denoiser.log_score(x, t).exp()
        assert_close(score, arrays["analytic_score"], atol=1e-5, rtol=2e-4)
        log_p = Tweedie(denoiser).log_transition(x, t, s)
        _check_step(case, "analytic", log_p, torch.ones_like(t))
        # The last step draws from p(x_0 | x_t); the published one is not normalised.
        total = arrays["denoiser_probs"].double().sum(-1, keepdim=True)
        expected = arrays["denoiser_probs"] / total
        log_p = denoiser.log_x0(x, t)
        assert_close(log_p.exp()[masked], expected[masked], atol=1e-6, rtol=2e-4)
        _check_draw(case, "denoiser", log_p)


def _check_step(case: Case, name: str, log_p: Tensor, total: Tensor) -> None:
    """Our transition against the published one at masks; clean tokens are copied by both."""
    arrays = case.arrays
    masked = arrays["x"] == case.config["mask_index"]
    actual, expected = log_p.exp() * total[..., None], arrays[f"{name}_probs"].clamp(min=0)
    is_mask = torch.arange(case.config["vocab_size"]) == case.config["mask_index"]
    assert_close(actual[masked][:, ~is_mask], expected[masked][:, ~is_mask], atol=1e-6, rtol=2e-4)
    # The published analytic step subtracts large numbers for the mask.
    gain = (
        torch.exp(arrays["sigma_t"] - arrays["sigma_s"])[..., None] if name == "analytic" else 1.0
    )
    scale = arrays["analytic_score"].sum(-1, keepdim=True) if name == "analytic" else 1.0
    error = (actual - expected).abs()[..., is_mask]
    assert (error <= 1e-6 + 1e-6 * gain * scale + 2e-4 * expected[..., is_mask])[masked].all()
    _check_draw(case, name, log_p)


def _check_draw(case: Case, name: str, log_p: Tensor) -> None:
    """The published draw is ours, or ties with it within rounding; clean tokens are copied."""
    x, u = case.arrays["x"], case.arrays[f"{name}_u"]
    masked = x == case.config["mask_index"]
    drawn, expected = reference_race(log_p, u), case.arrays[f"{name}_draw"]
    race = log_p.exp() / (1e-10 - (u + 1e-10).log())
    ours, published = (race.gather(-1, token[..., None])[..., 0] for token in (drawn, expected))
    assert ((drawn == expected) | (published > (1 - 1e-5) * ours))[masked].all()
    assert torch.equal(torch.where(masked, expected, x), case.arrays[f"{name}_next"])
