"""A genome drawn from a known law: the likelihood of a model can be held against the truth.

The law is a sequence of independent blocks. A block is one background base (probability 1 - rho),
or one of M motifs of W bases (probability rho), forward or reverse-complemented with equal chance,
each of whose bases is kept with probability 1 - eps and else is one of the other three. Read
backwards on the other strand it is the same law. As a hidden Markov model it has 1 + 2 M W states,
and the forward algorithm gives the exact probability of a window; windows begin anywhere, that is
in the stationary law, in the middle of a motif too.

Bases come as token ids (A 7, C 8, G 9, T 10).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from genodiff.data.intervals import Split
from genodiff.errors import UserError
from genodiff.files import atomic_path

_FIRST_ID = 7
_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
_LINE = 60
_LIKELIHOOD_CHUNK = 256


class EntropyEstimate(NamedTuple):
    """Mean of -log p a base over drawn windows, in nats, and the standard error of that mean."""

    nats_per_base: float
    standard_error: float


@final
class SyntheticGenome:
    """The law: `n_motifs` motifs (M) of `motif_length` bases (W), drawn uniformly from `seed`.

    They cover `motif_fraction` of the bases (which sets rho); `mutation_rate` is eps, `gc` the
    share of G and C in the background. At the default values windows of 1,024 bases have 0.718
    nats a base (perplexity 2.05), while Markov models of orders 0 to 3 reach 4.00, 3.97, 3.90 and
    3.63: most of the structure is out of reach of a short memory.
    """

    def __init__(
        self,
        *,
        n_motifs: int = 4,
        motif_length: int = 32,
        motif_fraction: float = 0.7,
        mutation_rate: float = 0.05,
        gc: float = 0.41,
        seed: int = 0,
    ):
        if n_motifs < 1 or motif_length < 1:
            raise UserError(
                f"n_motifs={n_motifs}, motif_length={motif_length}: give 1 or more of each."
            )
        for name, value in (
            ("motif_fraction", motif_fraction),
            ("mutation_rate", mutation_rate),
            ("gc", gc),
        ):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value} is a probability; give 0 to 1.")
        forward = np.random.default_rng(seed).integers(0, 4, (n_motifs, motif_length))
        self.motifs = np.concatenate([forward, 3 - forward[:, ::-1]])  # (2 M, W), 0 to 3: A C G T
        self.mutation_rate = mutation_rate
        self.background = np.array([1 - gc, gc, gc, 1 - gc]) / 2
        # A block has 1 - rho + rho W bases, rho W of them in a motif; solved for rho.
        self.block_rate = motif_fraction / (motif_length - motif_fraction * (motif_length - 1))
        self.motif_fraction = motif_fraction

    def draw(
        self, n_windows: int, length: int, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "n l"]:
        """Independent windows of the law, as token ids."""
        n_kinds, motif_length = self.motifs.shape
        shape = (n_windows, length)
        # Each window: a first block, chosen by its share of bases and begun `phase` bases earlier,
        # then blocks of rate rho.
        is_motif = rng.random(shape) < self.block_rate
        is_motif[:, 0] = rng.random(n_windows) < self.motif_fraction
        phase = rng.integers(0, motif_length, n_windows) * is_motif[:, 0]
        ends = np.cumsum(np.where(is_motif, motif_length, 1), axis=1) - phase[:, None]
        starts = np.concatenate([np.zeros((n_windows, 1), dtype=np.int64), ends[:, :-1]], axis=1)
        widths = np.minimum(ends, length) - np.minimum(starts, length)  # 0 beyond the window
        kind = np.where(is_motif, rng.integers(0, n_kinds, shape), -1)
        first = np.where(is_motif, ends - motif_length, starts)
        kind = np.repeat(kind.ravel(), widths.ravel()).reshape(shape)
        place = np.arange(length) - np.repeat(first.ravel(), widths.ravel()).reshape(shape)
        mutation = rng.integers(1, 4, shape) * (rng.random(shape) < self.mutation_rate)
        motif_bases = (self.motifs[kind, place] + mutation) % 4
        background = np.searchsorted(
            np.cumsum(self.background)[:-1], rng.random(shape), side="right"
        )
        return (_FIRST_ID + np.where(kind < 0, background, motif_bases)).astype(np.uint8)

    def log_likelihood(self, ids: UInt8[np.ndarray, "n l"]) -> Float64[np.ndarray, "n"]:
        """log p of each window, in nats. Raises `ValueError` for ids that are not A, C, G or T.

        The scaled forward algorithm (Rabiner 1989, section V.A) in float64.
        """
        if len(ids) and not _FIRST_ID <= ids.min() <= ids.max() < _FIRST_ID + 4:
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()}: the law gives A, C, G and T, ids 7 to 10; "
                "leave other windows out."
            )
        chunks = [ids[i : i + _LIKELIHOOD_CHUNK] for i in range(0, len(ids), _LIKELIHOOD_CHUNK)]
        return np.concatenate(
            [self._forward(chunk.astype(np.int64) - _FIRST_ID) for chunk in chunks]
        )

    def entropy(self, n_windows: int, length: int, rng: np.random.Generator) -> EntropyEstimate:
        """Entropy a base of windows of `length`: in expectation no model of them has less."""
        nats = -self.log_likelihood(self.draw(n_windows, length, rng)) / length
        return EntropyEstimate(float(nats.mean()), float(nats.std(ddof=1) / np.sqrt(n_windows)))

    def write(
        self,
        folder: str | Path,
        records: Mapping[Split, int],
        record_length: int,
        rng: np.random.Generator,
    ) -> tuple[Path, Path]:
        """Write `genome.fa` and `genome.bed`, with so many independent records a split, one BED
        row each.

        Raises `UserError` if one of the files is there. Returns their paths.
        """
        folder = Path(folder)
        fasta, bed = folder / "genome.fa", folder / "genome.bed"
        for path in (fasta, bed):
            if path.exists():
                raise UserError(
                    f"{path} exists and is not overwritten; give another folder or remove it."
                )
        folder.mkdir(parents=True, exist_ok=True)
        names = [(split, f"{split}_{i}") for split, count in records.items() for i in range(count)]
        with atomic_path(fasta) as temporary, temporary.open("wb") as file:
            for _, name in names:
                ids = self.draw(1, record_length, rng)[0]
                file.write(f">{name}\n".encode() + _wrapped(_LETTERS[ids - _FIRST_ID]))
        with atomic_path(bed) as temporary:
            rows = (f"{name}\t0\t{record_length}\t{split}\n" for split, name in names)
            temporary.write_text("".join(rows), encoding="utf-8")
        return fasta, bed

    def _forward(self, bases: Int64[np.ndarray, "n l"]) -> Float64[np.ndarray, "n"]:
        n_kinds, motif_length = self.motifs.shape
        keep, change = 1 - self.mutation_rate, self.mutation_rate / 3
        motif_emission = np.where(
            self.motifs[None] == np.arange(4)[:, None, None], keep, change
        )  # (4, 2M, W)
        enter = self.block_rate / n_kinds
        # The stationary law of the state of a base.
        motif = np.full(
            (len(bases), n_kinds, motif_length), self.motif_fraction / self.motifs.size
        )
        background = np.full(len(bases), 1 - self.motif_fraction)
        total = np.zeros(len(bases))
        for t in range(bases.shape[1]):
            if t > 0:
                boundary = background + motif[:, :, -1].sum(1)
                motif[:, :, 1:] = motif[:, :, :-1]
                motif[:, :, 0] = boundary[:, None] * enter
                background = boundary * (1 - self.block_rate)
            motif *= motif_emission[bases[:, t]]
            background = background * self.background[bases[:, t]]
            scale = background + motif.sum((1, 2))
            with np.errstate(
                divide="ignore", invalid="ignore"
            ):  # an impossible window has log p = -inf
                total += np.log(scale)
                motif /= scale[:, None, None]
                background = background / scale
        return np.where(np.isnan(total), -np.inf, total)


def _wrapped(letters: UInt8[np.ndarray, "l"]) -> bytes:
    """The letters in lines of 60."""
    text = letters.tobytes()
    return b"".join(text[i : i + _LINE] + b"\n" for i in range(0, len(text), _LINE))
