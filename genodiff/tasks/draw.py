"""Drawing sequences from a model and writing them as text."""

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from genodiff.data import DnaTokenizer
from genodiff.diffusion import Cached, Counting, Denoiser, Sampler

log = logging.getLogger(__name__)

LINE = 80
"""Bases a FASTA line."""


class Drawn(NamedTuple):
    """Sequences with what it cost to draw them."""

    sequences: list[str]
    network_calls: int
    row_evaluations: int
    seconds: float


def draw_sequences(
    denoiser: Denoiser,
    tokenizer: Any,
    sampler: Sampler,
    *,
    count: int,
    length: int,
    seed: int,
    batch_size: int = 16,
) -> Drawn:
    """Draws `count` sequences of `length` tokens; batch i has its own generator, seeded by (seed,
    i)."""
    counting = Counting(denoiser)
    # Without time conditioning a row whose tokens did not change need not be evaluated again.
    source = counting if denoiser.time_conditioning else Cached(counting)
    device = next(denoiser.parameters()).device
    sequences: list[str] = []
    began = time.monotonic()
    for index, start in enumerate(range(0, count, batch_size)):
        rows = min(batch_size, count - start)
        generator = torch.Generator(device=device).manual_seed(seed * 1_000_003 + index)
        prior = source.process.prior((rows, length), device=device, generator=generator)
        tokens = sampler(source, prior, generator=generator)
        sequences += [tokenizer.decode(row) for row in tokens.cpu()]
        if count > batch_size:
            seconds = time.monotonic() - began
            log.info("%d of %d sequences drawn, %.0f seconds", len(sequences), count, seconds)
    return Drawn(sequences, counting.calls, counting.row_evaluations, time.monotonic() - began)


def text_of(sequences: Sequence[str], tokenizer: Any, provenance: str) -> str:
    """FASTA of DNA; of anything else one sequence a line."""
    if isinstance(tokenizer, DnaTokenizer):
        return fasta_text(sequences, provenance)
    return "".join(f"{sequence}\n" for sequence in sequences)


def fasta_text(sequences: Sequence[str], provenance: str, name: str = "sample") -> str:
    """FASTA records `name_0`, `name_1`, ... whose headers carry `provenance`."""
    return "".join(
        f">{name}_{index} length={len(sequence)} {provenance}\n{_wrapped(sequence)}\n"
        for index, sequence in enumerate(sequences)
    )


def _wrapped(sequence: str) -> str:
    return "\n".join(sequence[start : start + LINE] for start in range(0, len(sequence), LINE))
