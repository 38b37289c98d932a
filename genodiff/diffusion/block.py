"""Block diffusion: blocks from left to right, each by diffusion given the clean blocks before it.

    log p(x) = sum over blocks b of log p(x^b | x^<b)

Arriola et al. 2025 (BD3LM, arXiv:2503.09573). Each term is bounded as in diffusion of
that block alone: the objective is `ContinuousNelbo` with `BlockTimes`, the model `BlockDenoiser`.
Blocks of one token are a left-to-right model; one block is diffusion as without blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from genodiff.diffusion.chunked_head import linear_head_of
from genodiff.diffusion.denoiser import Denoiser, NetworkDenoiser
from genodiff.diffusion.incremental import (
    Incremental,
    Memory,
    Remembered,
    Rereading,
    content_of,
)
from genodiff.diffusion.objective import ContinuousNelbo
from genodiff.diffusion.parameterization import Parameterization
from genodiff.diffusion.process import Process
from genodiff.diffusion.times import BlockTimes
from genodiff.errors import UserError


class BlockCausalNetwork(Protocol):
    """What is asked of a network: logits are head(hidden states), and no block sees a later one.

    `hidden` is told one sequence. `hidden_given` gives in one pass, for each block of `tokens`,
    what `hidden` gives for that block behind the earlier blocks of `clean`. Clean blocks are told
    that sigma is 0. One that is `Incremental` too spares a sampler the blocks that are finished.
    """

    block_length: int | None

    def hidden(
        self, tokens: Tensor, sigma: Tensor | None, condition: Tensor | None = None
    ) -> Tensor: ...

    def hidden_given(
        self,
        tokens: Tensor,
        clean: Tensor,
        sigma: Tensor | None,
        condition: Tensor | None = None,
    ) -> Tensor: ...

    def head(self, hidden: Tensor) -> Tensor: ...


class BlockDenoiser(Denoiser):
    """A block-causal network read by a parameterization.

    Of a sequence alone it says what a sampler asks for: each block given the blocks before it as
    they stand, so these should be clean; with `time_conditioning`, a block with nothing left to
    change is told that there is no noise, whatever t. `given(x0)` is the denoiser whose blocks are
    given those of x0 instead, all of them in one pass: likelihoods are its, so that every
    objective made of them scores block diffusion. Other arguments are those of `NetworkDenoiser`.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        parameterization: Parameterization,
        time_conditioning: bool = False,
        *,
        told: Literal["sigma", "time"] = "sigma",
    ) -> None:
        super().__init__()
        if not getattr(network, "block_length", None):
            raise UserError(
                f"BlockDenoiser({type(network).__name__}): the network is not block-causal; give "
                "it a block_length, e.g. backbone.block_length=16 with backbone=dit or caduceus."
            )
        self.network: BlockCausalNetwork = network  # pyright: ignore[reportAttributeAccessIssue]
        self.process = process
        self.parameterization = parameterization
        self.time_conditioning = time_conditioning
        self.told: Literal["sigma", "time"] = told
        self._one_block: OneBlock | None = None
        self._alone()  # refuses parts that do not fit

    @property
    def reveals_at_random(self) -> bool:
        return self._alone().reveals_at_random

    @property
    def block_length(self) -> int:
        """Tokens a block; the last of a sequence may be shorter."""
        return self.network.block_length or 0  # which is refused above

    def given(self, x0: Int[Tensor, "b l"]) -> NetworkDenoiser:
        """The denoiser of x_t whose every block is given the blocks of x0 before it."""

        def hidden(x_t: Tensor, sigma: Tensor | None, condition: Tensor | None = None) -> Tensor:
            return self.network.hidden_given(x_t, x0, sigma, condition)

        return self._read(hidden)

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self._alone().log_x0(x_t, t, condition)

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        return self._alone().log_x0_at(x_t, t, where, condition)

    def log_transition_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        s: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        return self._alone().log_transition_at(x_t, t, s, where, condition)

    def log_likelihood_at(
        self,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
        *,
        weight: Float[Tensor, "b #l"] | None = None,
    ) -> Float[Tensor, " m"]:
        """log p(x_0^b | x_t^b, x_0^<b) of the blocks b that the positions are in."""
        return self.given(x0).log_likelihood_at(x0, x_t, t, where, condition, weight=weight)

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        return self._alone().log_score(x_t, t, condition)

    @contextmanager
    def block_by_block(self) -> Iterator["OneBlock"]:
        """While it lasts, this is the denoiser that it gives: one block at a time is evaluated,
        and the blocks before it once."""
        network: object = self.network
        reader = network if isinstance(network, Incremental) else Rereading(self.network)
        self._one_block = OneBlock(self._of_sequences(), self._read, reader)
        try:
            yield self._one_block
        finally:
            self._one_block = None

    def _alone(self) -> Denoiser:
        """The denoiser of sequences without another x0."""
        return self._of_sequences() if self._one_block is None else self._one_block

    def _of_sequences(self) -> NetworkDenoiser:
        def hidden(x_t: Tensor, sigma: Tensor | None, condition: Tensor | None = None) -> Tensor:
            if sigma is not None:
                sigma = torch.where(self._is_noised(x_t), sigma, 0.0)
            return self.network.hidden(x_t, sigma, condition)

        return self._read(hidden)

    def _is_noised(self, x_t: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Whether anything in a token's block can still change."""
        length = self.block_length
        is_open = F.pad(self.process.is_open(x_t), (0, -x_t.shape[1] % length))
        of_blocks = is_open.unflatten(1, (-1, length)).any(-1)
        return of_blocks.repeat_interleave(length, dim=1)[:, : x_t.shape[1]]

    def _read(self, hidden: Callable[..., Tensor]) -> NetworkDenoiser:
        return NetworkDenoiser(
            _Network(hidden, self.network.head, partial(linear_head_of, self.network)),
            self.process,
            self.parameterization,
            self.time_conditioning,
            told=self.told,
        )


class OneBlock(Denoiser):
    """A block denoiser of whole sequences of which one block is evaluated: (start, stop) that of
    the last `move_to`.

    The blocks before it are finished: the network is told that they have no noise, and remembers
    them. Elsewhere than in the block it says what logits of zero say: clean tokens are themselves,
    masks may be anything.
    """

    def __init__(
        self,
        of_sequences: NetworkDenoiser,
        read: Callable[[Callable[..., Tensor]], NetworkDenoiser],
        network: Incremental,
    ) -> None:
        super().__init__()
        self._of_sequences, self._read = of_sequences, read
        self._begin, self._extend = network.begin, network.extend
        self._finished = Remembered()
        self._own = slice(0, 0)
        self.process = of_sequences.process
        self.time_conditioning = of_sequences.time_conditioning

    @property
    def reveals_at_random(self) -> bool:
        return self._of_sequences.reveals_at_random

    def move_to(self, start: int, stop: int) -> None:
        """Evaluate this block from now on, no earlier one than before."""
        self._own = slice(start, stop)
        self._finished.forget_shorter()

    def log_x0(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        block, x_own, t_own = self._block(x_t, t)
        log_x0 = block.log_x0(x_own, t_own, condition)
        return self._amid(log_x0, block.parameterization.log_x0, x_t, t)

    def log_x0_at(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
        where: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "m k"]:
        if not self._holds(where):
            return super().log_x0_at(x_t, t, where, condition)
        block, x_own, t_own = self._block(x_t, t)
        return block.log_x0_at(x_own, t_own, where[:, self._own], condition)

    def log_score(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l k"]:
        block, x_own, t_own = self._block(x_t, t)
        log_score = block.log_score(x_own, t_own, condition)
        return self._amid(log_score, block.parameterization.log_score, x_t, t)

    def _block(
        self, x_t: Int[Tensor, "b l"], t: Float[Tensor, "b #l"]
    ) -> tuple[NetworkDenoiser, Int[Tensor, "b m"], Float[Tensor, "b #m"]]:
        """The denoiser of the block alone, behind those before it, with its tokens and times."""
        finished = x_t[:, : self._own.start]

        def hidden(x_own: Tensor, sigma: Tensor | None, condition: Tensor | None = None) -> Tensor:
            if sigma is not None:
                noised = self.process.is_open(x_own).any(-1, keepdim=True)
                sigma = torch.where(noised, sigma, 0.0)
            memory = self._memory_of(finished, sigma, condition)
            return self._extend(x_own, memory, sigma, condition, keep=False)

        t_own = t if t.shape[1] == 1 else t[:, self._own]
        return self._read(hidden), x_t[:, self._own], t_own

    def _memory_of(
        self,
        finished: Int[Tensor, "b n"],
        sigma: Float[Tensor, "b #m"] | None,
        condition: Tensor | None,
    ) -> Memory:
        """What the network remembers of the finished blocks: as much as it has read before, and
        the rest, which it reads now."""
        if finished.shape[1] == 0:
            return self._begin()
        content = content_of(finished, condition)
        memory = self._finished.find(content) or self._begin()
        if memory.length < finished.shape[1]:
            self._finished.forget(memory)  # it is about to change
            clean = None if sigma is None else torch.zeros_like(sigma[:, :1])
            self._extend(finished[:, memory.length :], memory, clean, condition)
            self._finished.add(content, memory)
        return memory

    def _amid(
        self,
        block: Float[Tensor, "b m k"],
        read: Callable[[Tensor, Tensor, Tensor, Process], Tensor],
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b #l"],
    ) -> Float[Tensor, "b l k"]:
        """What is known of the block, and of the rest what is read from logits of zero."""
        nothing = block.new_zeros(*x_t.shape, block.shape[-1])
        everywhere = read(nothing, x_t, t, self.process)
        return torch.cat(
            [everywhere[:, : self._own.start], block, everywhere[:, self._own.stop :]], dim=1
        )

    def _holds(self, where: Bool[Tensor, "b l"]) -> bool:
        """Whether the positions are all in the block."""
        return bool(where[:, self._own].sum() == where.sum())


class _Network(nn.Module):
    """A network of the given functions, whose parameters stay where they are."""

    def __init__(
        self,
        hidden: Callable[..., Tensor],
        head: Callable[[Tensor], Tensor],
        linear_head: Callable[[], tuple[Tensor, Tensor | None] | None],
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.head = head
        self.linear_head = linear_head

    def forward(self, *arguments: Tensor | None) -> Tensor:
        return self.head(self.hidden(*arguments))


@torch.no_grad()
def clip_variances(
    model: Denoiser,
    x0: Int[Tensor, "b l"],
    block_length: int,
    ranges: Sequence[tuple[float, float]],
    *,
    generator: Generator,
) -> Float[Tensor, " r"]:
    """The variance, over the blocks of x0, of a block's mean loss with mask rates clipped to each
    of `ranges`: what the range of `BlockTimes` is chosen by.

    BD3LM: the variance of the loss stands for that of its gradient. All ranges see the
    same random numbers. A last, shorter block is left out.
    """
    start = generator.get_state()
    variances = []
    for low, high in ranges:
        generator.set_state(start)
        times = BlockTimes(block_length, low, high, average=True)
        nats = ContinuousNelbo(times)(model, x0, generator=generator)
        whole = x0.shape[1] - x0.shape[1] % block_length
        variances.append(nats[:, :whole].unflatten(1, (-1, block_length)).mean(-1).var())
    return torch.stack(variances)
