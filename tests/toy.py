"""A world small enough to enumerate: 27 sequences of three letters, with the exact denoiser of any
process.

The vocabulary is a b c (0, 1, 2), the mask (3) and an unknown letter (4), which is not data.
Everything that a diffusion model only estimates is a finite sum here.
"""

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from genodiff.diffusion import Absorbing, NetworkDenoiser, NoiseSchedule, Subs

LETTERS = 3
LENGTH = 3
MASK = 3
UNKNOWN = 4
VOCAB_SIZE = 5
DATA_IDS = (0, 1, 2)


class ExactNetwork(nn.Module):
    """The network that a perfect training would give: logits log p(x_0^i | the letters that are
    seen).

    Masks and unknown letters are not seen. It does not use the time: for masking, the exact one
    never does.
    """

    sequences: Tensor
    probabilities: Tensor

    def __init__(self, sequences: Tensor, probabilities: Tensor) -> None:
        super().__init__()
        self.register_buffer("sequences", sequences)
        self.register_buffer("probabilities", probabilities)

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        unseen = tokens[:, None] >= LETTERS  # (b, 1, l)
        weight = ((tokens[:, None] == self.sequences) | unseen).all(
            -1
        ) * self.probabilities  # (b, 27)
        one_hot = nn.functional.one_hot(self.sequences, VOCAB_SIZE).to(weight.dtype)
        return torch.einsum("bn,nlk->blk", weight, one_hot).log().clamp(min=-1e6)


class World:
    """A distribution over the 27 sequences, float64, with what follows from it."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        p = torch.rand(LETTERS**LENGTH, dtype=torch.float64, generator=generator) ** 3
        self.probabilities = p / p.sum()  # (27,)
        self.sequences = torch.tensor(list(itertools.product(range(LETTERS), repeat=LENGTH)))
        self.masks = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))  # (8, 3)

    def denoiser(self, schedule: NoiseSchedule) -> NetworkDenoiser:
        """The exact denoiser of masking under a schedule."""
        process = Absorbing(schedule, VOCAB_SIZE, MASK, DATA_IDS)
        network = ExactNetwork(self.sequences, self.probabilities)
        return NetworkDenoiser(network, process, Subs(VOCAB_SIZE, MASK, DATA_IDS))

    def entropy(self) -> float:
        """In nats a sequence."""
        return _entropy(self.probabilities)

    def masked_entropies(self) -> Tensor:
        """(8,): for each mask, the sum of its letters' entropies given those seen, in nats."""
        entropies = [self._masked_entropy(mask) for mask in self.masks.tolist()]
        return torch.tensor(entropies, dtype=torch.float64)

    def nelbo(self, first: float, last: float) -> float:
        """The exact denoiser's NELBO over mask rates m from `first` to `last`, nats a sequence.

        It is the integral of E[sum of the masked letters' entropies] / m: a polynomial in m.
        """
        m, weight = gauss_legendre(first, last, 8)
        n = self.masks.sum(-1)
        rate = m[:, None] ** (n - 1) * (1 - m[:, None]) ** (LENGTH - n)  # (nodes, 8)
        return float(weight @ (rate[:, n > 0] @ self.masked_entropies()[n > 0]))

    def frequencies(self, tokens: Tensor) -> Tensor:
        """(27,): how often each sequence occurs in (b, 3) tokens; others are an error."""
        index = (tokens[:, None] == self.sequences).all(-1).to(torch.int64)
        assert bool((index.sum(-1) == 1).all()), "a sample is not one of the 27 sequences"
        return torch.bincount(index.argmax(-1), minlength=len(self.sequences))

    def _masked_entropy(self, mask: list[bool]) -> float:
        table = self.probabilities.reshape([LETTERS] * LENGTH)
        masked = [i for i, is_masked in enumerate(mask) if is_masked]
        seen = _entropy(table.sum(masked)) if masked else _entropy(table)
        others = ([j for j in masked if j != i] for i in masked)
        return sum(_entropy(table.sum(dims) if dims else table) - seen for dims in others)


def gauss_legendre(first: float, last: float, nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a quadrature on [first, last], float64."""
    x, weight = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(nodes))
    return first + (x + 1) * (last - first) / 2, weight * (last - first) / 2


def _entropy(p: Tensor) -> float:
    return float(-torch.xlogy(p, p).sum())
