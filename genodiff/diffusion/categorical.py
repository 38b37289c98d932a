"""Drawing tokens: the one place that does it, in float64 and from an explicit generator.

In float32 the uniforms are multiples of 2^-24, which suppresses rare tokens in small steps (Zheng
et al. 2024, arXiv:2409.02908): `reference_draw` keeps that behaviour of the published code for
comparisons. The generator lives on the device of the probabilities.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

Draw = Callable[[Tensor, Generator | None], Tensor]
"""(log-probabilities (..., k), generator) -> tokens (...)."""


def draw(log_p: Float[Tensor, "*s k"], generator: Generator | None = None) -> Int[Tensor, "*s"]:
    """One token from each distribution, by inverse CDF in float64. `log_p` need not be normalised.

    A token of probability 0 is never drawn. Raises ValueError where there is no distribution (NaN,
    or all zero).
    """
    log_p = log_p.to(torch.float64)
    cumulative = (log_p - log_p.amax(-1, keepdim=True)).exp().cumsum(-1)
    total = cumulative[..., -1:]
    if not bool(total.isfinite().all()):
        raise ValueError(
            "the log-probabilities to draw from hold NaN, +inf or a row of -inf; "
            "check the denoiser."
        )
    u = torch.rand(total.shape, dtype=total.dtype, device=total.device, generator=generator)
    return (cumulative <= u * total).sum(-1)


def reference_draw(
    log_p: Float[Tensor, "*s k"], generator: Generator | None = None
) -> Int[Tensor, "*s"]:
    """One token from each distribution as MDLM draws it: a float32 exponential race."""
    u = torch.rand(log_p.shape, dtype=torch.float32, device=log_p.device, generator=generator)
    return reference_race(log_p, u)


def reference_race(log_p: Float[Tensor, "*s k"], u: Float[Tensor, "*s k"]) -> Int[Tensor, "*s"]:
    """MDLM's draw for given uniforms: argmax of p / (1e-10 - log(u + 1e-10)), in u's dtype."""
    return (log_p.exp().to(u.dtype) / (1e-10 - (u + 1e-10).log())).argmax(-1)
