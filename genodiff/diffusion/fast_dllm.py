"""`CachedBlocks`: block decoding by an ordinary denoiser with keys and values that are kept though
they would have changed, and how far that is from the denoiser itself.

Wu et al. 2025 (Fast-dLLM, arXiv:2505.22618), section 3.2. In a network in which every position
sees every other nothing is ever finished; but keys and values of tokens that do not change
themselves change little from step to step.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from genodiff.diffusion.block_by_block import in_blocks
from genodiff.diffusion.denoiser import Denoiser, NetworkDenoiser
from genodiff.diffusion.incremental import Memory, Remembered, content_of
from genodiff.diffusion.sampling import Sampler
from genodiff.errors import UserError

Cache = Literal["prefix", "dual"]


@dataclass(frozen=True)
class CachedBlocks(Sampler):
    """Restores blocks from left to right, each by `sampler` with all other positions frozen; in a
    block the network computes little more than the block.

    The first evaluation of a block is of the whole sequence, exact, and keeps keys and values of
    every layer. The others compute again the block alone ("dual"), or the block and all after it
    ("prefix"), amid the keys and values kept. What that does to the predictions depends on the
    network: see `deviation`. Rows that differ in nothing but tokens given within a block may be
    taken for each other when its keys and values are looked up.

    Raises UserError, when called, for a network that is not a transformer that sees every
    position.
    """

    sampler: Sampler
    block_length: int
    cache: Cache = "dual"

    def __post_init__(self) -> None:
        if self.block_length < 1:
            raise UserError(
                f"block_length={self.block_length}: a block has at least one token; use e.g. 32."
            )
        if self.cache not in ("prefix", "dual"):
            raise UserError(f"cache={self.cache!r} is not one of 'prefix', 'dual'.")

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        inner = [module for module in denoiser.modules() if isinstance(module, NetworkDenoiser)]
        if not inner:
            raise _refusal(denoiser)
        networks = [CachedNetwork(model.network, self.cache) for model in inner]
        with ExitStack() as stack:
            for model, network in zip(inner, networks, strict=True):
                stack.enter_context(_reading(model, network))
            for start, stop, others in in_blocks(x, self.block_length, frozen):
                for network in networks:
                    network.move_to(start, stop)
                x = self.sampler.restore(denoiser, x, others, generator)
        return x


class Deviation(NamedTuple):
    """Of cached predictions p(x_0 | x_t) from exact ones, a mean over `tokens` masks: the KL
    divergence of the cached from the exact one in nats, and the total variation, in [0, 1]."""

    kl: float
    total_variation: float
    tokens: int


def deviation(
    sampler: CachedBlocks,
    denoiser: NetworkDenoiser,
    x: Int[Tensor, "b l"],
    *,
    frozen: Bool[Tensor, "b l"] | None = None,
    generator: Generator | None = None,
) -> Deviation:
    """How far the predictions are off that `sampler` draws x from: at the masks of the block that
    is being restored, in every evaluation."""
    compared = _Compared(denoiser)
    sampler(compared, x, frozen=frozen, generator=generator)
    tokens = max(compared.tokens, 1)
    return Deviation(compared.kl / tokens, compared.total_variation / tokens, compared.tokens)


@runtime_checkable
class KeyValueNetwork(Protocol):
    """A network of which positions can be computed amid keys and values of others."""

    @property
    def sees_everything(self) -> bool: ...

    def begin(self) -> Memory: ...

    def hidden_amid(
        self,
        tokens: Tensor,
        memory: Memory,
        start: int,
        sigma: Tensor | None,
        condition: Tensor | None,
    ) -> Tensor: ...

    def head(self, hidden: Tensor) -> Tensor: ...


class CachedNetwork(nn.Module):
    """The network that `CachedBlocks` puts in the place of another: hidden states are right, or
    nearly, in the block alone."""

    def __init__(self, network: nn.Module, cache: Cache) -> None:
        super().__init__()
        candidate: object = network  # pyright would narrow nn.Module to its __getattr__
        if not isinstance(candidate, KeyValueNetwork) or not candidate.sees_everything:
            raise _refusal(network)
        self.network, self.cache = network, cache
        self._begin, self._hidden_amid = candidate.begin, candidate.hidden_amid
        self.head = candidate.head
        self.move_to(0, 0)

    def move_to(self, start: int, stop: int) -> None:
        """Compute this block from now on, with keys and values of its own."""
        self.start, self.stop = start, stop
        self.kept = Remembered()

    def hidden(
        self,
        tokens: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l d"]:
        start, stop = self.start, self.stop if self.cache == "dual" else tokens.shape[1]
        others = content_of(torch.cat([tokens[:, :start], tokens[:, stop:]], 1), condition)
        memory = self.kept.find(others)
        if memory is None:
            memory = self._begin()
            self.kept.add(others, memory)
            return self._hidden_amid(tokens, memory, 0, sigma, condition)
        if sigma is not None and sigma.shape[1] > 1:
            sigma = sigma[:, start:stop]
        again = self._hidden_amid(tokens[:, start:stop], memory, start, sigma, condition)
        return F.pad(again, (0, 0, start, tokens.shape[1] - stop))

    def forward(self, tokens: Int[Tensor, "b l"], *arguments: Tensor | None) -> Tensor:
        return self.head(self.hidden(tokens, *arguments))


class _Compared(Denoiser):
    """A cached denoiser that is compared with itself as it would be without the cache."""

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process
        self.time_conditioning = denoiser.time_conditioning
        self.kl, self.total_variation, self.tokens = 0.0, 0.0, 0

    @property
    def reveals_at_random(self) -> bool:
        return self.denoiser.reveals_at_random

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        log_x0, network = self.denoiser.log_x0(x_t, t, condition), self.denoiser.network
        assert isinstance(network, CachedNetwork)
        with _reading(self.denoiser, network.network):
            exact = self.denoiser.log_x0(x_t, t, condition)
        masked = self.process.is_masked(x_t)
        masked[:, : network.start], masked[:, network.stop :] = False, False
        exact, cached = exact[masked].double(), log_x0[masked].double()
        p, q = exact.exp(), cached.exp()
        self.kl += float((p * (exact - cached)).sum())
        self.total_variation += float((p - q).abs().sum() / 2)
        self.tokens += len(p)
        return log_x0


@contextmanager
def _reading(denoiser: NetworkDenoiser, network: nn.Module) -> Iterator[None]:
    """The denoiser reads another network, as long as it lasts."""
    denoiser.network, own = network, denoiser.network
    try:
        yield
    finally:
        denoiser.network = own


def _refusal(module: nn.Module) -> UserError:
    return UserError(
        f"CachedBlocks with a {type(module).__name__}: only a Transformer that sees every "
        "position has keys and values to keep that it would compute again; use BlockByBlock for a "
        "network with block_length=, LeftToRight for a causal one, the sampler alone for others."
    )
