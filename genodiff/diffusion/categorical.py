"""Drawing tokens: the one place that does it, in float64 and from an explicit generator.

In float32 the uniforms are multiples of 2^-24, which suppresses rare tokens in small steps (Zheng
et al. 2024, arXiv:2409.02908): `reference_draw` keeps that behaviour of the published code for
comparisons. The generator lives on the device of the probabilities.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

_NUMBERS_AT_ONCE = 1 << 24

Draw = Callable[[Tensor, Generator | None], Tensor]
"""(log-probabilities (..., k), generator) -> tokens (...)."""


def draw(log_p: Float[Tensor, "*s k"], generator: Generator | None = None) -> Int[Tensor, "*s"]:
    """One token from each distribution, by inverse CDF in float64. `log_p` need not be normalised.

    A token of probability 0 is never drawn. Raises ValueError where there is no distribution (NaN,
    or all zero).
    """
    shape = log_p.shape[:-1]
    u = torch.rand(shape, dtype=torch.float64, device=log_p.device, generator=generator)
    drawn = [_at(*part) for part in in_parts(log_p.reshape(-1, log_p.shape[-1]), u.flatten())]
    return torch.cat(drawn).view(shape)


def _at(log_p: Float[Tensor, "m k"], u: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
    """The tokens at quantiles u."""
    log_p = log_p.to(torch.float64)
    cumulative = (log_p - log_p.amax(-1, keepdim=True)).exp().cumsum(-1)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise ValueError(
            "the log-probabilities to draw from hold NaN, +inf or a row of -inf; "
            "check the denoiser."
        )
    return (cumulative <= u[:, None] * total).sum(-1)


def in_parts(log_p: Float[Tensor, "m k"], *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """log_p, and tensors with as many rows, in parts: what is computed of large vocabularies in
    float64 would not fit at once."""
    size = max(_NUMBERS_AT_ONCE // log_p.shape[-1], 1)
    return zip(log_p.split(size), *(each.split(size) for each in rows), strict=True)


def reference_draw(
    log_p: Float[Tensor, "*s k"], generator: Generator | None = None
) -> Int[Tensor, "*s"]:
    """One token from each distribution as MDLM draws it: a float32 exponential race."""
    u = torch.rand(log_p.shape, dtype=torch.float32, device=log_p.device, generator=generator)
    return reference_race(log_p, u)


def reference_race(log_p: Float[Tensor, "*s k"], u: Float[Tensor, "*s k"]) -> Int[Tensor, "*s"]:
    """MDLM's draw for given uniforms: argmax of p / (1e-10 - log(u + 1e-10)), in u's dtype."""
    return (log_p.exp().to(u.dtype) / (1e-10 - (u + 1e-10).log())).argmax(-1)
