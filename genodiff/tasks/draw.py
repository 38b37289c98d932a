"""Drawing sequences from a model, what that costs, and writing them as text."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Int
from numpy.random import SeedSequence
from torch import Tensor, nn

from genodiff.data import DnaTokenizer, text_lines
from genodiff.diffusion import ClassifierGuided, Denoiser
from genodiff.errors import UserError
from genodiff.files import claim_file
from genodiff.ranks import ALONE, Ranks
from genodiff.tasks.model import Model

log = logging.getLogger(__name__)

_METHODS = ("hidden", "hidden_amid", "extend", "head")

LINE = 80
"""Bases a FASTA line."""

PRECISION = "float64"
"""Of the numbers by which every sampler draws its tokens; see `genodiff.diffusion.categorical`."""


class Drawn(NamedTuple):
    """Sequences with what it cost to draw them."""

    tokens: Tensor  # (n, l), on the CPU
    sequences: list[str]
    network_calls: int
    network_evaluations: int
    """Sequences, or pieces of one, that went through the network; both strands count."""
    classifier_evaluations: int
    """Sequences told to a classifier that guides."""
    seconds: float
    network_seconds: float

    def cost(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "network_calls": self.network_calls,
            "network_evaluations": self.network_evaluations,
            "classifier_evaluations": self.classifier_evaluations,
            "seconds": self.seconds,
            "seconds_outside_the_network": self.seconds - self.network_seconds,
        }


def masks(model: Model, count: int, length: int) -> Int[Tensor, "n l"]:
    """Sequences of nothing but tokens to be drawn."""
    return torch.full((count, length), model.tokenizer.mask_id)


def draw_sequences(
    model: Model,
    denoiser: Any,
    sampler: Any,
    x: Int[Tensor, "n l"],
    *,
    seed: int,
    batch_size: int = 16,
    ranks: Ranks = ALONE,
) -> Drawn:
    """Draws every mask of x; all other tokens stay. Batch i has its own generator, seeded by
    (seed, i).

    `denoiser` is the model's own, or one that wraps it, and `sampler` one that fits it. `ranks`
    share the batches; each has all that is drawn, and the seconds are its own.
    """
    device = next(model.network.parameters()).device
    tokens: list[Tensor] = []
    asked_before = _classifier_evaluations(denoiser)
    began = time.monotonic()
    with Meter(model.network) as meter:
        for index, rows in ranks.mine(enumerate(x.to(device).split(batch_size))):
            generator = torch.Generator(device=device).manual_seed(_seed_of(seed, index))
            unknown, frozen = rows == model.tokenizer.mask_id, None
            if isinstance(denoiser, Denoiser):
                prior = denoiser.process.prior(
                    (rows.shape[0], rows.shape[1]), device=device, generator=generator
                )
                rows, frozen = torch.where(unknown, prior, rows), ~unknown
            tokens.append(sampler(denoiser, rows, frozen=frozen, generator=generator).cpu())
            if len(x) > batch_size:
                done = min(sum(map(len, tokens)) * ranks.size, len(x))
                seconds = time.monotonic() - began
                log.info("%d of %d sequences drawn, %.0f seconds", done, len(x), seconds)
    asked = _classifier_evaluations(denoiser) - asked_before
    drawn = torch.cat(ranks.together(tokens))
    counts = np.sum(ranks.together([(meter.calls, meter.evaluations, asked)]), 0)
    return Drawn(
        drawn,
        [model.tokenizer.decode(row) for row in drawn],
        *counts.tolist(),
        seconds=time.monotonic() - began,
        network_seconds=meter.seconds,
    )


def _classifier_evaluations(denoiser: nn.Module) -> int:
    """Of all classifiers in it, so far."""
    guided = (part for part in denoiser.modules() if isinstance(part, ClassifierGuided))
    return sum(part.classifier_evaluations for part in guided)


def claim_samples(out: str, *, overwrite: bool) -> Path | None:
    """The file that out= names, None for standard output; its report goes to FILE.json beside it.

    Raises UserError if either cannot be written, or is the other.
    """
    if out == "-":
        return None
    path = Path(out)
    if path.suffix in (".json", ".gz"):
        rule = "FILE.json is the report's" if path.suffix == ".json" else "it is plain text"
        raise UserError(f"out={out} cannot end in {path.suffix}: {rule}; use e.g. out=samples.fa.")
    claim_file(path.with_suffix(".json"), overwrite=overwrite)
    return claim_file(path, overwrite=overwrite)


def _seed_of(seed: int, index: int) -> int:
    if seed < 0:
        raise UserError(f"seed={seed} must be 0 or more.")
    return int(SeedSequence((seed, index)).generate_state(1, "uint64")[0] >> 1)


class Meter:
    """While it is entered, counts what a network is asked for and how long that takes."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls = self.evaluations = 0
        self.seconds = 0.0
        self._depth = 0

    def __enter__(self) -> Self:
        for name in _METHODS:
            if hasattr(self.network, name):
                self.network.__dict__[name] = self._metered(getattr(self.network, name), name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in _METHODS:
            self.network.__dict__.pop(name, None)

    def _metered(self, method: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        @wraps(method)
        def metered(inputs: Tensor, *rest: Any, **options: Any) -> Tensor:
            if self._depth:  # one method calls another
                return method(inputs, *rest, **options)
            self._depth += 1
            began = _now(inputs.device)
            try:
                return method(inputs, *rest, **options)
            finally:
                self._depth -= 1
                self.seconds += _now(inputs.device) - began
                if name != "head":
                    self.calls += 1
                    self.evaluations += len(inputs)

        return metered


def _now(device: torch.device) -> float:
    """Seconds; on a GPU when it has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def text_of(sequences: Sequence[str], tokenizer: Any, provenance: str) -> str:
    """FASTA of DNA; of anything else a line a sequence, as `genodiff.data.read_texts` reads it."""
    if isinstance(tokenizer, DnaTokenizer):
        return fasta_text(sequences, provenance)
    return text_lines(sequences)


def fasta_text(sequences: Sequence[str], provenance: str, name: str = "sample") -> str:
    """FASTA records `name_0`, `name_1`, ... whose headers carry `provenance`."""
    return "".join(
        fasta_record(f"{name}_{index} length={len(sequence)} {provenance}", sequence)
        for index, sequence in enumerate(sequences)
    )


def fasta_record(header: str, sequence: str) -> str:
    """One FASTA record."""
    lines = (sequence[start : start + LINE] for start in range(0, len(sequence), LINE))
    return "\n".join([f">{header}", *lines]) + "\n"
