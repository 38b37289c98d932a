"""Sequences longer than a network's window, by infilling windows that slide along them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from genodiff.diffusion.sampling import Sampler
from genodiff.errors import UserError


@dataclass(frozen=True)
class SemiAutoregressive(Sampler):
    """Samples the first `window` tokens by `sampler`, then windows `stride` further each, of which
    the first window - stride tokens are frozen as they were sampled, until x is filled.

    Sahoo et al. 2024 (MDLM, arXiv:2406.07524). The last window ends with x, and so may share more
    with the one before. No token knows of what lies more than `window` tokens before it, or behind
    its window: the law is the model's where tokens depend on at most window - stride before them
    and nothing is given behind the window. The denoiser is asked for windows and must not tell
    positions apart by itself.
    """

    sampler: Sampler
    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise UserError(
                f"stride={self.stride} with window={self.window}: each window adds `stride` of "
                "its tokens; use 1 .. window, e.g. half of it."
            )

    def restore(
        self,
        denoiser: Any,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        frozen = torch.zeros_like(x, dtype=torch.bool) if frozen is None else frozen
        last = max(x.shape[1] - self.window, 0)
        for start in (*range(0, last, self.stride), last):
            now, end = slice(start, start + self.window), start + self.window
            drawn = self.sampler.restore(denoiser, x[:, now], frozen[:, now], generator)
            x = torch.cat([x[:, :start], drawn, x[:, end:]], 1)
            frozen = frozen | (torch.arange(x.shape[1], device=x.device) < end)
        return x

    def masked(self, denoiser: Any, x: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return self.sampler.masked(denoiser, x)
