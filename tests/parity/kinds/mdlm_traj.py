"""Whole trajectories of the published samplers, replayed with their recorded uniforms."""

import torch
from torch import Tensor

from genodiff.diffusion import (
    Absorbing,
    Analytic,
    Ancestral,
    Cached,
    Counting,
    Denoiser,
    LogLinear,
    Rescheduled,
    Tweedie,
)
from tests.parity.cases import Case
from tests.parity.mdlm import PublishedTransition, Replay, assert_close, denoiser_of


def check(case: Case) -> None:
    arrays, config = case.arrays, case.config
    counting = Counting(denoiser_of(case))
    replay = CountingReplay(arrays["u"], counting)
    states = arrays["x"]
    steps = len(states) - 1
    final = _sample(case, counting, replay, states[0])

    x = states[0]
    for k in range(steps):
        x = torch.where(x == config["mask_index"], replay.drawn[k], x)
        assert torch.equal(x, states[k + 1]), f"step {k}"
        _check_probabilities(case, k, replay.log_p[k])
    assert torch.equal(final, arrays["final"])
    assert replay.evaluated[:steps] == arrays["network_called"].bool().tolist()


class CountingReplay(Replay):
    """Also keeps whether the network ran before each draw."""

    def __init__(self, uniforms: Tensor, counting: Counting) -> None:
        super().__init__(uniforms)
        self.counting = counting
        self.evaluated: list[bool] = []
        self.calls = 0

    def __call__(self, log_p: Tensor, generator: torch.Generator | None) -> Tensor:
        self.evaluated.append(self.counting.calls > self.calls)
        self.calls = self.counting.calls
        return super().__call__(log_p, generator)


def _sample(case: Case, denoiser: Denoiser, replay: Replay, prior: Tensor) -> Tensor:
    config = case.config
    steps, t_end, removal = config["num_steps"], config["eps"], config["noise_removal"]
    match config["sampler"]:
        case "analytic" if removal:
            return Analytic(steps, t_end, draw=replay)(denoiser, prior)
        case "analytic":
            return Ancestral(steps, t_end, final="none", draw=replay)(Tweedie(denoiser), prior)
        case "ddpm_cache":
            cached = denoiser if denoiser.time_conditioning else Cached(denoiser)
            # Steps by alpha = 1 - t, whatever the schedule.
            identity = Absorbing(LogLinear(eps=0.0), config["vocab_size"], config["mask_index"])
            denoiser = Rescheduled(cached, identity)
        case "ddpm":
            pass
        case other:
            raise LookupError(f"no sampler {other!r}")
    sampler = Ancestral(steps, t_end, final="argmax" if removal else "none", draw=replay)
    return sampler(PublishedTransition(denoiser), prior)


def _check_probabilities(case: Case, k: int, log_p: Tensor) -> None:
    """At masks. The published ones sum to the mask rate at t, unless analytic; so normalised."""
    masked = case.arrays["x"][k] == case.config["mask_index"]
    expected = case.arrays["probs"][k].double().clamp(min=0)
    actual = log_p.exp()
    if case.config["sampler"] != "analytic":
        expected, actual = (p / p.sum(-1, keepdim=True) for p in (expected, actual))
    assert_close(actual[masked], expected[masked], atol=5e-5, rtol=2e-4)
