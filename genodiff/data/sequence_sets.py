"""Sets of sequences of one length, cut from the records of FASTA files.

A record is cut into pieces of `length` bases from its beginning, one after the other; what is left
at its end is dropped, and so is a piece of which more than a twentieth is N. Letters are upper
case, and whatever is not A, C, G or T is N. Of more pieces than are asked for a sample is kept
that depends on the seed and the order of the file alone: memory does not grow with the file.

Neighbours on a genome are alike, so pieces of one record do not repeat independently of each
other. The *unit* that does is a record, or a stretch of one that has more than a twentieth of
all pieces.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final, overload

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from genodiff.data.randomness import hash_counters, integers_below
from genodiff.data.sequence_records import read_fasta
from genodiff.errors import UserError

MOST_N = 0.05
"""The largest share of N in a piece."""

_N = ord("N")
_UPPER = np.full(256, _N, np.uint8)
_UPPER[np.frombuffer(b"ACGTacgt", np.uint8)] = np.frombuffer(b"ACGTACGT", np.uint8)
_BLOCK = 1 << 24  # bases that are looked at together
_FEWEST_UNITS = 20
_FIRST_ROWS = 1024  # of the pieces that are kept, made room for; then as many as there are


class Cutting(NamedTuple):
    """What became of a file: its records, how many of them are shorter than a piece, how many
    pieces were cut, how many of those were left out for their N, and how many are kept."""

    records: int
    too_short: int
    pieces: int
    too_many_n: int
    kept: int


@final
@dataclass(frozen=True, eq=False)
class SequenceSet(Sequence[str]):
    """Sequences (n, l) as upper-case ASCII, in the order of the file. Of each: the number of the
    record that it was cut from, its first base there, and the number of its unit. As a sequence of
    Python's it is their strings, made when asked for."""

    letters: UInt8[np.ndarray, "n l"]
    records: Int64[np.ndarray, " n"]
    starts: Int64[np.ndarray, " n"]
    units: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.letters)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "SequenceSet": ...
    def __getitem__(self, index: int | slice) -> "str | SequenceSet":
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        return self.letters[index].tobytes().decode("ascii")

    def __iter__(self) -> Iterator[str]:
        return (row.tobytes().decode("ascii") for row in self.letters)

    def at(self, where: Shaped[np.ndarray, " m"]) -> "SequenceSet":
        """Some of the sequences, by their places or a mask."""
        return SequenceSet(
            self.letters[where], self.records[where], self.starts[where], self.units[where]
        )

    def halves(self, seed: int) -> tuple["SequenceSet", "SequenceSet"]:
        """Two sets of nearly the same size without a unit in common, drawn by `seed`.

        Raises:
            UserError: a set of a single unit.
        """
        names, unit = np.unique(self.units, return_inverse=True)
        if len(names) < 2:
            raise UserError(f"{len(self)} sequence has no two halves; give two or more.")
        order = np.argsort(hash_counters(seed, names), kind="stable")
        sizes = np.bincount(unit)[order]
        # Where they come nearest to each other in size; neither is empty.
        cut = 1 + int(np.abs(np.cumsum(sizes)[:-1] - len(self) / 2).argmin())
        is_first = np.isin(unit, order[:cut])
        return self.at(is_first), self.at(~is_first)


def most_common_length(path: Path) -> int:
    """Of the records of a FASTA, the longer one of two that are as common."""
    counts = Counter(len(record.letters) for record in read_fasta(path))
    return max(counts, key=lambda length: (counts[length], length))


def read_sequence_set(
    path: Path, length: int, *, at_most: int, seed: int, first_unit: int = 0
) -> tuple[SequenceSet, Cutting]:
    """The pieces of a FASTA's records.

    Args:
        path: plain, gzip or bgzip.
        length: bases of a piece.
        at_most: how many are kept, drawn at random if there are more (algorithm R: Vitter 1985,
            "Random sampling with a reservoir").
        seed: of that drawing.
        first_unit: from where units are numbered, so that two sets have none in common.

    Raises:
        UserError: no piece of that length that is not mostly N; what `read_fasta` raises.
    """
    letters = np.empty((min(at_most, _FIRST_ROWS), length), np.uint8)
    records, starts, places = (np.zeros(len(letters), np.int64) for _ in range(3))
    n_records = too_short = pieces = passed = longest = 0
    for record in read_fasta(path):
        longest = max(longest, len(record.letters))
        too_short += len(record.letters) < length
        for begin, block in _blocks(record.letters, length):
            pieces += len(block)
            passes = (block == _N).mean(1) <= MOST_N
            begins, block = begin + length * np.flatnonzero(passes), block[passes]
            number = passed + np.arange(len(block))
            passed += len(block)
            slot = np.where(number < at_most, number, integers_below(number + 1, seed, number))
            kept = slot < at_most
            if (rows := min(passed, at_most)) > len(letters):
                rows = min(2 * rows, at_most)
                letters = np.concatenate(
                    [letters, np.empty((rows - len(letters), length), np.uint8)]
                )
                records, starts, places = (np.resize(a, rows) for a in (records, starts, places))
            # numpy keeps the last of several rows for one slot, as the algorithm does.
            letters[slot[kept]], records[slot[kept]] = block[kept], n_records
            starts[slot[kept]], places[slot[kept]] = begins[kept], number[kept]
        n_records += 1
    n = min(passed, at_most)
    if not n:
        raise UserError(
            f"{path} has no piece of {length} bases with at most {100 * MOST_N:g} % N (longest of "
            f"{n_records:,} records: {longest:,} bases); give another file, or a smaller length=."
        )
    order = np.argsort(places[:n])
    records = records[order]
    found = SequenceSet(letters[order], records, starts[order], first_unit + _units(records))
    return found, Cutting(n_records, too_short, pieces, pieces - passed, n)


def _blocks(letters: str, length: int) -> Iterator[tuple[int, UInt8[np.ndarray, "n l"]]]:
    """The pieces of a record, some at a time, and where the first of them begins."""
    size = max(1, _BLOCK // length) * length
    whole = len(letters) // length * length
    for start in range(0, whole, size):
        text = letters[start : min(start + size, whole)].encode("ascii")
        yield start, _UPPER[np.frombuffer(text, np.uint8)].reshape(-1, length)


def _units(records: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Numbers of records, which ascend, with stretches of the large ones."""
    _, first, sizes = np.unique(records, return_index=True, return_counts=True)
    largest = -(-len(records) // _FEWEST_UNITS)
    stretches = -(-sizes // largest)
    size, n_stretches = np.repeat(sizes, sizes), np.repeat(stretches, sizes)
    place = np.arange(len(records)) - np.repeat(first, sizes)
    before = np.repeat(np.cumsum(stretches) - stretches, sizes)
    return before + place * n_stretches // size
