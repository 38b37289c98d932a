"""How a network is told the time: an embedding of sigma, and adaptive layer norm.

Peebles & Xie 2023 (arXiv:2212.09748), section 3.2, as in the DiT of MDLM (Sahoo et al. 2024).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = 128
_LONGEST_PERIOD = 10_000


class TimeEmbedding(nn.Module):
    """MLP of the cosines and sines of sigma at 128 frequencies, geometric from 1 to 1/10000."""

    def __init__(self, d_cond: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * _FREQUENCIES, d_cond)
        self.second = nn.Linear(d_cond, d_cond)

    def forward(self, sigma: Float[Tensor, "b l"]) -> Float[Tensor, "b l c"]:
        steps = torch.arange(_FREQUENCIES, device=sigma.device) / _FREQUENCIES
        angles = sigma.unsqueeze(-1) * torch.exp(-math.log(_LONGEST_PERIOD) * steps)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.second(F.silu(self.first(features.to(self.first.weight.dtype))))


class Modulation(nn.Module):
    """Linear map of the condition to `parts` vectors; zero at initialisation (adaLN-zero)."""

    def __init__(self, d_cond: int, d_model: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(d_cond, parts * d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c: Float[Tensor, "b l c"]) -> tuple[Float[Tensor, "b l d"], ...]:
        return self.linear(c).chunk(self.parts, dim=-1)


def modulate(
    x: Float[Tensor, "b l d"], shift: Float[Tensor, "#b #l d"], scale: Float[Tensor, "#b #l d"]
) -> Float[Tensor, "b l d"]:
    """x * (1 + scale) + shift."""
    return torch.addcmul(shift + x, x, scale)
