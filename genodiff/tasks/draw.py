"""Drawing sequences from a model, what that costs, and writing them as text."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Int
from numpy.random import SeedSequence
from torch import Tensor, nn

from genodiff.data import DnaTokenizer, text_lines
from genodiff.diffusion import ClassifierGuided, Denoiser
from genodiff.errors import UserError
from genodiff.parts import claim_outputs
from genodiff.tasks.model import Model

log = logging.getLogger(__name__)

_METHODS = ("hidden", "hidden_amid", "extend", "head")

LINE = 80
"""Bases a FASTA line."""

MOST_TOKENS = 1_000_000_000
"""Of a sequence; the largest chromosome that is known has fewer."""

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
    """Sequences of nothing but tokens to be drawn. Raises UserError for more than MOST_TOKENS."""
    if length > MOST_TOKENS:
        raise UserError(
            f"a sequence of {length:,} tokens cannot be drawn; use {MOST_TOKENS:,} or less."
        )
    return torch.full((count, length), model.tokenizer.mask_id)


def draw_sequences(
    model: Model,
    denoiser: Any,
    sampler: Any,
    x: Int[Tensor, "n l"],
    *,
    seed: int,
    batch_size: int = 16,
) -> Drawn:
    """Draws every mask of x in batches, the i-th as `draw_batch` draws number i."""
    batches, began = list[Drawn](), time.monotonic()
    for index, rows in enumerate(x.split(batch_size)):
        batches.append(draw_batch(model, denoiser, sampler, rows, seed=seed, index=index))
        if len(x) > batch_size:
            log_progress(min((index + 1) * batch_size, len(x)), len(x), began)
    tokens, sequences, *costs = zip(*batches, strict=True)
    return Drawn(torch.cat(tokens), [*chain(*sequences)], *map(sum, costs))


def draw_batch(
    model: Model,
    denoiser: Any,
    sampler: Any,
    x: Int[Tensor, "b l"],
    *,
    seed: int,
    index: int,
) -> Drawn:
    """Draws every mask of x; all other tokens stay. What is random follows from (seed, index).
    Raises UserError for a sampler that leaves masks.

    `denoiser` is the model's own, or one that wraps it, and `sampler` one that fits it.
    """
    device = next(model.network.parameters()).device
    generator = torch.Generator(device=device).manual_seed(_seed_of(seed, index))
    asked_before, began = _classifier_evaluations(denoiser), time.monotonic()
    with Meter(model.network) as meter:
        x = x.to(device)
        unknown, frozen = x == model.tokenizer.mask_id, None
        if isinstance(denoiser, Denoiser):
            prior = denoiser.process.prior(
                (x.shape[0], x.shape[1]), device=device, generator=generator
            )
            x, frozen = torch.where(unknown, prior, x), ~unknown
        tokens = sampler(denoiser, x, frozen=frozen, generator=generator).cpu()
    if left := int((tokens == model.tokenizer.mask_id).sum()):
        raise UserError(
            f"the sampler leaves {left} tokens masked, and a mask is nothing to write; use "
            "sampler.final=draw, or sampler.t_end=0.0."
        )
    return Drawn(
        tokens,
        [model.tokenizer.decode(row) for row in tokens],
        meter.calls,
        meter.evaluations,
        _classifier_evaluations(denoiser) - asked_before,
        seconds=time.monotonic() - began,
        network_seconds=meter.seconds,
    )


def log_progress(done: int, total: int, began: float) -> None:
    """A line; `began` as `time.monotonic` counts."""
    log.info("%d of %d sequences drawn, %.0f seconds", done, total, time.monotonic() - began)


def _classifier_evaluations(denoiser: nn.Module) -> int:
    """Of all classifiers in it, so far."""
    guided = (part for part in denoiser.modules() if isinstance(part, ClassifierGuided))
    return sum(part.classifier_evaluations for part in guided)


def claim_samples(out: str, *, overwrite: bool, beside: Sequence[str] = (".json",)) -> Path | None:
    """The file that out= names, None for standard output; files with the suffixes `beside` go
    beside it, of which FILE.json is its report.

    Raises UserError if one of them cannot be written, or is the other.
    """
    if out == "-":
        return None
    path = Path(out)
    if path.suffix in (*beside, ".gz"):
        rule = "it is plain text" if path.suffix == ".gz" else f"FILE{path.suffix} goes beside it"
        raise UserError(f"out={out} cannot end in {path.suffix}: {rule}; use e.g. out=samples.fa.")
    return claim_outputs(path, *map(path.with_suffix, beside), overwrite=overwrite)


def check_seed(seed: int) -> None:
    """Raises UserError for a negative one."""
    if seed < 0:
        raise UserError(f"seed={seed} must be 0 or more.")


def _seed_of(seed: int, index: int) -> int:
    check_seed(seed)
    return int(SeedSequence((seed, index)).generate_state(1, "uint64")[0] >> 1)


def weights_sha256(model: Model) -> str:
    """SHA-256 of what a model is: its description and its weights, whatever file they are in."""
    return sha256_of(model.description, model.denoiser)


def sha256_of(description: Mapping[str, Any], module: nn.Module) -> str:
    """SHA-256 of a description and of the weights that go with it."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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


def text_of(sequences: Sequence[str], tokenizer: Any, provenance: str, first: int = 0) -> str:
    """FASTA of DNA; of anything else a line a sequence, as `genodiff.data.read_texts` reads it."""
    if isinstance(tokenizer, DnaTokenizer):
        return fasta_text(sequences, provenance, first)
    return text_lines(sequences)


def fasta_text(sequences: Sequence[str], provenance: str, first: int = 0) -> str:
    """FASTA records `sample_0`, `sample_1`, ..., or from `sample_FIRST` on, whose headers carry
    `provenance`."""
    return "".join(
        fasta_record(f"sample_{index} length={len(sequence)} {provenance}", sequence)
        for index, sequence in enumerate(sequences, first)
    )


def fasta_record(header: str, sequence: str) -> str:
    """One FASTA record."""
    lines = (sequence[start : start + LINE] for start in range(0, len(sequence), LINE))
    return "\n".join([f">{header}", *lines]) + "\n"
