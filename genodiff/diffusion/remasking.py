"""Sampling that takes tokens back: masked again, they are drawn again knowing the others.

Wang et al. 2025 (ReMDM, arXiv:2503.00307). From t to s a clean token is masked with probability
sigma, and a mask is revealed with

    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),
    sigma <= sigma_max = min(1, (1 - alpha_s) / alpha_t),

so that the masks have the law of the forward process at every time, whatever sigma is.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.plan import open_masks
from genodiff.diffusion.process import TINY, absorbing
from genodiff.diffusion.sampling import Stepwise, even_times
from genodiff.diffusion.schedule import NoiseSchedule
from genodiff.errors import UserError

Strategy = Literal["cap", "rescale", "conf", "loop"]

_PUBLISHED_ETA: dict[Strategy, float] = {"cap": 0.04, "rescale": 0.04, "conf": 1.0, "loop": 0.02}


@dataclass(frozen=True)
class Remasking(Stepwise):
    """Ancestral sampling that may mask again what it has drawn; eta=0 is `Ancestral` in law.

    sigma is by `strategy`:

        "cap"      min(eta, sigma_max)
        "rescale"  eta sigma_max
        "conf"     eta sigma_max times softmax(-confidence) over the clean tokens of the row, the
                   confidence of a token being p(x_0) when it was drawn. Masks are revealed as if
                   sigma were 0, as published: more are masked than the schedule says, and are
                   drawn together in the end
        "loop"     as "cap" while the clock runs from t_on to t_off, and the noise stands still at
                   alpha_on; 0 before and after, where the noise falls to that and to none

    eta=None is 0.04 for cap (fewer steps than tokens), 0.02 for loop (more) and 1 for conf, as
    published, and 0.04 for rescale. t_on, t_off and alpha_on are of "loop" alone.

    Only masks of x that are not frozen are drawn, and only they are masked again. A row costs a
    network evaluation in those steps that reveal one of its masks; for cap, rescale and loop these
    do not depend on the network. The rest is as in `Stepwise`.
    """

    strategy: Strategy = "cap"
    eta: float | None = None
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy not in _PUBLISHED_ETA:
            raise UserError(
                f"strategy={self.strategy!r} is not one of 'cap', 'rescale', 'conf', 'loop'."
            )
        if not 0 <= self._eta <= 1:
            raise UserError(f"eta={self.eta} scales a probability; use a number in [0, 1].")
        for name in ("t_on", "t_off", "alpha_on"):
            value = getattr(self, name)
            if self.strategy != "loop" and value != getattr(Remasking, name):
                raise UserError(
                    f"{name}={value} is of strategy='loop', and this is {self.strategy!r}; leave "
                    "it out."
                )
        if not 0 < self.t_off < self.t_on < 1:
            raise UserError(
                f"t_off={self.t_off}, t_on={self.t_on}: the loop lasts from t_on to t_off, with "
                "0 < t_off < t_on < 1; use e.g. 0.05 and 0.55."
            )
        if not 0 < self.alpha_on < 1:
            raise UserError(
                f"alpha_on={self.alpha_on} is the share of clean tokens in the loop, between 0 "
                "and 1; use e.g. 0.9."
            )

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        process = absorbing(denoiser.process, "Remasking")
        if not denoiser.reveals_at_random:
            raise UserError(
                f"Remasking with a {type(denoiser).__name__} whose network decides when a mask is "
                "revealed: there is no rate to make up for tokens taken back; use "
                "sampler=ancestral."
            )
        schedule, free = process.schedule, open_masks(process, x, frozen)
        clock = even_times(self.steps, self.t_end, x.device)
        times = self._times(clock, schedule)
        alphas, rates = schedule.alpha(times), schedule.mask_rate(times)
        # exp(-confidence) of the tokens drawn, 0 of all others.
        x_t, unsure = x.clone(), torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for i in range(self.steps):
            (alpha_t, alpha_s), (mask_t, mask_s) = alphas[i : i + 2], rates[i : i + 2]
            sigma_max = (mask_s / alpha_t.clamp(min=TINY)).clamp(max=1)
            sigma = sigma_of_masks = self._sigma(sigma_max, clock[i])
            if self.strategy == "conf":
                sigma = sigma * unsure / unsure.sum(-1, keepdim=True).clamp(min=TINY)
                sigma_of_masks = torch.zeros_like(sigma_max)
            u = torch.rand(x.shape, dtype=torch.float64, device=x.device, generator=generator)
            masked = process.is_masked(x_t)
            revealed = free & masked & (u < (alpha_s - (1 - sigma_of_masks) * alpha_t) / mask_t)
            taken_back = free & ~masked & (u < sigma)
            rows = revealed.any(-1).nonzero()[:, 0]
            if len(rows):
                t = times[i].expand(len(rows), 1)
                proposal = denoiser.propose_at(x_t[rows], t, revealed[rows])
                x_t[revealed] = drawn = proposal.draw(None, generator, self.draw)
                if self.strategy == "conf":
                    confidence = proposal.log_p.gather(-1, drawn[:, None])[:, 0].exp()
                    unsure[revealed] = torch.exp(-confidence).to(unsure.dtype)
            x_t[taken_back], unsure[taken_back] = process.mask_id, 0.0
        end = times[-1].expand(len(x), 1)
        held = torch.zeros_like(free) if frozen is None else frozen
        return torch.where(held, x, self._finish(denoiser, x_t, end, held, generator))

    @property
    def _eta(self) -> float:
        return _PUBLISHED_ETA[self.strategy] if self.eta is None else self.eta

    def _sigma(self, sigma_max: Float[Tensor, ""], t: Float[Tensor, ""]) -> Tensor:
        """The probability of being masked again in the step that begins at t of the clock; for
        "conf" the sum over the tokens."""
        if self.strategy in ("rescale", "conf"):
            return self._eta * sigma_max
        if self.strategy == "loop" and not self.t_off < t <= self.t_on:
            return torch.zeros_like(sigma_max)
        return sigma_max.clamp(max=self._eta)

    def _times(self, clock: Float[Tensor, " n"], schedule: NoiseSchedule) -> Float[Tensor, " n"]:
        """The time of the process at each time of the clock."""
        if self.strategy != "loop":
            return clock
        loop = schedule.inverse(torch.full_like(clock, self.alpha_on))
        before = loop + (1 - loop) * (clock - self.t_on) / (1 - self.t_on)
        after = loop * clock / self.t_off
        return torch.where(clock > self.t_on, before, torch.where(clock < self.t_off, after, loop))
