"""Small networks with weights that leave nothing at zero, and reverse complements written out."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from genodiff.backbones import Caduceus, DiMamba, Transformer

COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)
"""Of Caduceus' tokens: A and T, C and G; the others are their own."""

M = TypeVar("M", bound=nn.Module)


def randomized(network: M, seed: int = 0, scale: float = 0.3) -> M:
    """The network in float64, to be evaluated, with given weights: noise, about 1 in vectors."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval().requires_grad_(False)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        parameter.copy_(scale * noise + (parameter.ndim == 1))
    return network


def small_caduceus(**options: Any) -> Caduceus:
    return randomized(Caduceus(12, d_model=12, n_layers=2, d_state=4, **options))


def small_dimamba(**options: Any) -> DiMamba:
    return randomized(DiMamba(12, d_model=12, n_layers=2, d_state=4, cond_dim=12, **options))


def small_transformer(cond_dim: int | None = 8, **options: Any) -> Transformer:
    return randomized(Transformer(12, 16, 2, 2, cond_dim=cond_dim, **options))


def some_tokens(b: int = 3, l: int = 17, seed: int = 1) -> Tensor:
    """Tokens of all kinds, masks among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(12, (b, l), generator=generator)


def rc_tokens(tokens: Tensor) -> Tensor:
    return torch.tensor([[COMPLEMENT[i] for i in reversed(row)] for row in tokens.tolist()])


def rc_logits(logits: Tensor) -> Tensor:
    """Length reversed, tokens complemented; tokens of the padding are their own complement."""
    order = [*COMPLEMENT, *range(len(COMPLEMENT), logits.shape[-1])]
    return logits.flip(1)[..., order]
