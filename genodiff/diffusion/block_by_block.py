"""`BlockByBlock`: sampling from block diffusion, with finished blocks evaluated once."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from genodiff.diffusion.block import BlockDenoiser
from genodiff.diffusion.denoiser import Denoiser
from genodiff.diffusion.sampling import Sampler
from genodiff.errors import UserError


@dataclass(frozen=True)
class BlockByBlock(Sampler):
    """Restores block after block from left to right, each by `sampler` given those before it.

    Arriola et al. 2025 (BD3LM, arXiv:2503.09573), algorithm 2. What the network computes of a
    finished block (keys and values, states of the scan from the left) is kept, so that it costs
    one evaluation of each block beside those of restoring it; the law is exactly that of
    evaluating all blocks each time. Any length that the network takes, however long the sequences
    it was trained on.

    The denoiser is a `BlockDenoiser`, or wraps one, or several of the same block length. The
    sampler and what wraps the denoiser see whole sequences, all but the block frozen: it is the
    `BlockDenoiser` that leaves the rest out. Given tokens in later blocks are kept, and as they
    come later, nothing before them depends on them.
    """

    sampler: Sampler

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        models = [module for module in denoiser.modules() if isinstance(module, BlockDenoiser)]
        lengths = {model.block_length for model in models}
        if len(lengths) != 1:
            raise UserError(
                f"BlockByBlock with a {type(denoiser).__name__} of block lengths "
                f"{sorted(lengths)}: it samples from a model of block diffusion, or from several "
                "of one block length; use the denoiser genodiff.diffusion.BlockDenoiser."
            )
        with ExitStack() as stack:
            evaluated = [stack.enter_context(model.block_by_block()) for model in models]
            for start, stop, others in in_blocks(x, lengths.pop(), frozen):
                for block in evaluated:
                    block.move_to(start, stop)
                x = self.sampler.restore(denoiser, x, others, generator)
        return x


def in_blocks(
    x: Int[Tensor, "b l"], length: int, frozen: Bool[Tensor, "b l"] | None
) -> Iterator[tuple[int, int, Bool[Tensor, "b l"]]]:
    """(start, stop) of each block, and what is frozen while it is restored: what always is, and
    all other blocks."""
    for start in range(0, x.shape[1], length):
        stop = min(start + length, x.shape[1])
        others = torch.ones_like(x, dtype=torch.bool)
        others[:, start:stop] = False if frozen is None else frozen[:, start:stop]
        yield start, stop, others
