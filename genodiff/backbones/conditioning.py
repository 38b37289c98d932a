"""How a network is told the time and a class: embeddings of both, and adaptive layer norm.

Peebles & Xie 2023 (arXiv:2212.09748), section 3.2, as in the DiT of MDLM (Sahoo et al. 2024).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from genodiff.backbones.base import refuse_condition
from genodiff.errors import UserError

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


class ClassEmbedding(nn.Embedding):
    """A vector for each of `n_classes` classes, and one more for "no class", the last.

    In training a label is left out with probability `dropout`, so that one network learns both
    p(x | y) and p(x) (Ho & Salimans 2022, arXiv:2207.12598).
    """

    def __init__(self, n_classes: int, d_cond: int, dropout: float = 0.1) -> None:
        super().__init__(n_classes + 1, d_cond)
        if not 0 <= dropout <= 1:
            raise UserError(f"class_dropout={dropout} is a probability; use one in [0, 1].")
        self.dropout = dropout
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, input: Int[Tensor, "*s"]) -> Float[Tensor, "*s c"]:
        if self.training and self.dropout:
            left_out = torch.rand(input.shape, device=input.device) < self.dropout
            input = torch.where(left_out, self.no_class, input)
        return super().forward(input)

    @property
    def no_class(self) -> int:
        """The label of sequences whose class is not told (classifier-free guidance)."""
        return self.num_embeddings - 1


def condition_vector(
    network: nn.Module,
    time: TimeEmbedding,
    classes: ClassEmbedding | None,
    sigma: Float[Tensor, "b #l"] | None,
    condition: Int[Tensor, " b"] | None,
    device: torch.device,
) -> Float[Tensor, "#b #l c"]:
    """c = silu(time(sigma) + class(condition)), which `network`'s layers are adapted to.

    sigma=None is read as 0, as MDLM does when time_conditioning is off, condition=None as "no
    class". Raises ValueError for a condition if there are no classes.
    """
    c = time(torch.zeros(1, 1, device=device) if sigma is None else sigma)
    if classes is None:
        refuse_condition(network, condition)
        return F.silu(c)
    if condition is None:
        condition = torch.full((1,), classes.no_class, device=device)
    return F.silu(c + classes(condition).unsqueeze(1))


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
