"""MDLM's semi-autoregressive sampler, replayed with its recorded uniforms.

Not compared: where it cuts rows at the first end-of-text token, which genodiff has no part in.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from genodiff.diffusion import (
    Absorbing,
    Cached,
    Counting,
    Denoiser,
    LogLinear,
    NetworkDenoiser,
    Rescheduled,
    Sampler,
    Subs,
)
from genodiff.diffusion.semi_autoregressive import SemiAutoregressive
from tests.parity.cases import Case
from tests.parity.mdlm import Replay, TableNetwork, assert_close


@dataclass(frozen=True)
class PublishedWindow(Sampler):
    """Steps at 1, 1 - dt, .., 0, the last of which reveals every mask; then the most probable x_0,
    which by then is x itself. Keeps the tokens and the time of every step, and whether the network
    ran in it."""

    dt: float
    counting: Counting
    replay: Replay
    states: list[Tensor]
    times: list[float]
    evaluated: list[bool]

    def restore(
        self, denoiser: Denoiser, x: Tensor, frozen: Tensor | None, generator: Generator | None
    ) -> Tensor:
        # Steps by alpha = 1 - t, whatever the schedule.
        identity = Absorbing(LogLinear(eps=0.0), *_tokens_of(denoiser))
        cached = Cached(denoiser)
        stepping = Rescheduled(cached, identity)
        at = torch.ones(len(x), 1, dtype=torch.float64)
        for i in range(int(1 / self.dt) + 1):
            t = 1 - i * self.dt
            calls = self.counting.calls
            if t > self.dt / 2:
                log_p = stepping.log_transition(x, t * at, max(t - self.dt, 0.0) * at)
            else:
                log_p = cached.log_x0(x, t * at)  # masks have probability 0
            self.times.append(t)
            self.states.append(x)
            self.evaluated.append(self.counting.calls > calls)
            x = torch.where(identity.is_masked(x), self.replay(log_p, generator), x)
            self.states.append(x)
        return cached.log_x0(x, 0 * at).argmax(-1)


def check(case: Case) -> None:
    arrays, config = case.arrays, case.config
    vocab_size, mask_id = config["vocab_size"], config["mask_index"]
    network, subs = TableNetwork(case), Subs(vocab_size, mask_id)
    process = Absorbing(LogLinear(), vocab_size, mask_id)
    counting = Counting(NetworkDenoiser(network, process, subs))
    window = PublishedWindow(config["dt"], counting, Replay(arrays["u"]), [], [], [])
    rows, length = arrays["x_in"].shape[1:]
    stride = config["stride_length"]
    masks = process.prior((rows, length + config["num_strides"] * stride))
    tokens = SemiAutoregressive(window, length, stride)(counting, masks)

    assert torch.equal(tokens, arrays["tokens"])
    assert torch.equal(torch.stack(window.states[::2]), arrays["x_in"])
    assert torch.equal(torch.stack(window.states[1::2]), arrays["x_out"])
    assert window.evaluated == arrays["cache_empty"].bool().tolist()
    assert_close(torch.tensor(window.times), arrays["t"][:, 0], atol=1e-6, rtol=0)
    for k, log_p in enumerate(window.replay.log_p):
        # At masks. The published ones sum to the mask rate at t, and in the last step to dt.
        masked = arrays["x_in"][k] == mask_id
        expected = arrays["probs"][k].double().clamp(min=0)
        expected, actual = (p / p.sum(-1, keepdim=True) for p in (expected, log_p.exp()))
        assert_close(actual[masked], expected[masked], atol=1e-6, rtol=1e-4)


def _tokens_of(denoiser: Denoiser) -> tuple[int, int]:
    process = denoiser.process
    assert isinstance(process, Absorbing)
    return process.vocab_size, process.mask_id
