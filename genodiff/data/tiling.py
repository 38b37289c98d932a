"""Which windows a split consists of: BED rows cut into windows of one length.

`InsideRows` is the default: windows tile each row and never leave it. `PublishedShifts` is what
Caduceus, and MDLM after it, trained and tested on: rows extended to 2^20 bases, whatever their
end, so that splits run into each other.
"""

import abc
import logging
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Int64

from genodiff.data.fasta import SOFT_MASK
from genodiff.data.genome import Genome
from genodiff.data.intervals import BedRow
from genodiff.data.tokenizer import N_ID
from genodiff.errors import UserError

log = logging.getLogger(__name__)

MAX_N_FRACTION = 0.5
PUBLISHED_SPAN_BP = 2**20


class Places(NamedTuple):
    """Where windows lie: BED row, start on the chromosome, and the bounds of that start."""

    row: Int64[np.ndarray, "b"]
    start: Int64[np.ndarray, "b"]
    first_start: Int64[np.ndarray, "b"]
    last_start: Int64[np.ndarray, "b"]


class Tiling(abc.ABC):
    """A numbered list of windows of `length_bp` bases on the `rows` of a BED file."""

    rows: Sequence[BedRow]
    length_bp: int

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def places(self, index: Int64[np.ndarray, "b"]) -> Places:
        """Where the windows of these numbers lie."""

    @abc.abstractmethod
    def describe(self) -> dict[str, int]:
        """What was kept and what was left out, for logs and manifests."""


@final
class InsideRows(Tiling):
    """Windows inside the rows, at `stride_bp` (default: their length) from the start of each row.

    A row that is shorter than a window gives none, nor does a stretch with more than
    `max_n_fraction` of N (a window of nothing but N is left out even at 1); both are counted. The
    default fraction keeps what is mostly DNA. Raises `UserError` if no row is as long as a window,
    or N leaves none.
    """

    def __init__(
        self,
        genome: Genome,
        rows: Sequence[BedRow],
        length_bp: int,
        *,
        stride_bp: int | None = None,
        max_n_fraction: float = MAX_N_FRACTION,
    ):
        stride_bp = length_bp if stride_bp is None else stride_bp
        _check_positive(length=length_bp, stride=stride_bp)
        if not 0 <= max_n_fraction <= 1:
            raise UserError(
                f"max_n_fraction={max_n_fraction} is a fraction of a window; give 0 to 1."
            )
        self.rows, self.length_bp = rows, length_bp
        most_n = min(int(max_n_fraction * length_bp), length_bp - 1)
        tiled = [np.arange(row.start, row.end - length_bp + 1, stride_bp) for row in rows]
        kept = [
            starts[_count_n(genome, row, starts, length_bp) <= most_n] if len(starts) else starts
            for row, starts in zip(rows, tiled, strict=True)
        ]
        self._starts = np.concatenate(kept).astype(np.int64)
        self._row = np.repeat(
            np.arange(len(rows), dtype=np.int32), [len(starts) for starts in kept]
        )
        self._row_starts = np.array([row.start for row in rows], dtype=np.int64)
        self._row_ends = np.array([row.end for row in rows], dtype=np.int64)
        self._dropped_rows = sum(len(starts) == 0 for starts in tiled)
        self._dropped_windows = sum(len(starts) for starts in tiled) - len(self)
        if self._dropped_rows == len(rows):
            longest = max(row.end - row.start for row in rows)
            raise UserError(
                f"length={length_bp} is longer than any of the {len(rows)} {rows[0].split} "
                f"windows of the BED (the longest has {longest} bases); give length={longest} or "
                "less."
            )
        if len(self) == 0:
            raise UserError(
                f"each of the {self._dropped_windows} {rows[0].split} windows has more than "
                f"{most_n} N in {length_bp} bases; raise max_n_fraction, or use rows with "
                "sequence."
            )
        if self._dropped_rows or self._dropped_windows:
            log.warning(
                "%s: %d of %d BED rows are shorter than length=%d, and %d windows have too much "
                "N; %d windows are left",
                *(
                    rows[0].split,
                    self._dropped_rows,
                    len(rows),
                    length_bp,
                    self._dropped_windows,
                    len(self),
                ),
            )

    def __len__(self) -> int:
        return len(self._starts)

    def places(self, index: Int64[np.ndarray, "b"]) -> Places:
        row = self._row[index].astype(np.int64)
        last_start = self._row_ends[row] - self.length_bp
        return Places(row, self._starts[index], self._row_starts[row], last_start)

    def describe(self) -> dict[str, int]:
        return {
            "rows": len(self.rows),
            "windows": len(self),
            "bases": len(self) * self.length_bp,
            "rows_too_short": self._dropped_rows,
            "windows_dropped_for_n": self._dropped_windows,
        }


@final
class PublishedShifts(Tiling):
    """The windows of Caduceus' `HG38Dataset` (Schiff et al. 2024; MDLM's DNA experiments use the
    same).

    The end of a row is ignored: it is read as [start, start + `span_bp`), which is cut into
    `span_bp / length_bp` windows. A window that would pass the end of its chromosome is moved back
    to end there, so the last one repeats. N is not filtered. Raises `UserError` if the length does
    not divide the span or a chromosome is shorter than a window.
    """

    def __init__(
        self,
        genome: Genome,
        rows: Sequence[BedRow],
        length_bp: int,
        *,
        span_bp: int = PUBLISHED_SPAN_BP,
    ):
        _check_positive(length=length_bp)
        if span_bp % length_bp:
            raise UserError(
                f"length={length_bp} does not divide the {span_bp} bases of a window of "
                "split_policy=caduceus; use a divisor, or split_policy=strict."
            )
        for row in rows:
            if genome.lengths[row.chrom] < length_bp:
                raise UserError(
                    f"length={length_bp} is longer than {row.chrom}, which has "
                    f"{genome.lengths[row.chrom]} bases; use a shorter length, or leave that "
                    "chromosome out of the BED."
                )
        self.rows, self.length_bp = rows, length_bp
        self._shifts = span_bp // length_bp
        self._starts = np.array([row.start for row in rows], dtype=np.int64)
        self._last_starts = np.array(
            [genome.lengths[r.chrom] - length_bp for r in rows], dtype=np.int64
        )

    def __len__(self) -> int:
        return len(self.rows) * self._shifts

    def places(self, index: Int64[np.ndarray, "b"]) -> Places:
        row, shift = np.divmod(index, self._shifts)
        start = np.minimum(self._starts[row] + shift * self.length_bp, self._last_starts[row])
        return Places(row, start, start, start)

    def describe(self) -> dict[str, int]:
        return {"rows": len(self.rows), "windows": len(self), "bases": len(self) * self.length_bp}


def _count_n(
    genome: Genome, row: BedRow, starts: Int64[np.ndarray, "w"], length_bp: int
) -> Int64[np.ndarray, "w"]:
    """How many N each window of a row has."""
    codes = genome.codes(row.chrom, row.start, row.end)
    text = codes.tobytes()
    if (
        bytes([N_ID]) not in text and bytes([N_ID | SOFT_MASK]) not in text
    ):  # most rows: 20 times faster
        return np.zeros(len(starts), dtype=np.int64)
    before = np.concatenate([[0], np.cumsum((codes & (SOFT_MASK - 1)) == N_ID)])
    return before[starts - row.start + length_bp] - before[starts - row.start]


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name}={value} is no number of bases; give 1 or more.")
