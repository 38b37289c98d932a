"""BED files with a split column: which stretches of a genome train, validate and test.

Columns, separated by tabs: chromosome, start, end, split (train, valid or test) and optionally
score and strand. Coordinates are 0-based and half-open. Lines that are empty or begin with `#`,
`track` or `browser` are skipped.
"""

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from genodiff.data.compression import Compression, compressed
from genodiff.data.genome import describe_names
from genodiff.errors import UserError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_NOT_ROWS = ("track", "browser")
_OTHER_NAMES = {"val": "valid", "validation": "valid", "dev": "valid", "eval": "valid"}


class BedRow(NamedTuple):
    """One line of a BED file. `strand` is '+' where the file has none; `line` counts from 1."""

    chrom: str
    start: int
    end: int
    split: Split
    strand: Literal["+", "-"]
    line: int


def read_bed(
    path: str | Path, lengths: Mapping[str, int], *, check_ends: bool = True
) -> list[BedRow]:
    """The rows of a BED file (plain or gzip), in its order. `lengths` are the chromosomes of the
    genome it is for.

    `check_ends=False` lets rows end beyond their chromosome: the published loader ignores that
    column. Raises `UserError`, with the line, for everything else that the format or the genome
    forbids.
    """
    return [
        _parse(fields, f"{path}, line {number}", number, lengths, check_ends)
        for number, fields in read_columns(path, ("chromosome", "start", "end", "split"))
    ]


def rows_of(rows: Sequence[BedRow], split: Split) -> list[BedRow]:
    """The rows of one split, in the file's order."""
    return [row for row in rows if row.split == split]


def count_splits(rows: Sequence[BedRow]) -> str:
    """The splits present and their numbers of rows, for messages: 'train 45, test 10'."""
    counts = Counter(row.split for row in rows)
    return ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])


def check_disjoint_splits(rows: Sequence[BedRow], path: str | Path) -> None:
    """Raise `UserError` if rows of two splits share a base. The rows may come in any order.

    Rows of one split may overlap, as those of the published file do.
    """
    last: dict[Split, BedRow] = {}  # of each split, the row seen that reaches furthest
    for row in sorted(rows):
        for other in last.values():
            same_chrom = other.chrom == row.chrom
            if other.split != row.split and same_chrom and row.start < other.end:
                raise UserError(
                    f"{path}: {_text(other)} and {_text(row)} overlap, so the {row.split} split "
                    f"would be seen in {other.split}; separate them (split_policy=caduceus "
                    "accepts it, as published)."
                )
        reach = last.get(row.split)
        if reach is None or reach.chrom != row.chrom or row.end > reach.end:
            last[row.split] = row


def merge_overlaps(rows: Sequence[BedRow]) -> list[BedRow]:
    """The rows with no base twice: those of one split and strand that overlap become one stretch,
    which is cut into equal parts, each as long as the longest of them or up to twice that.

    What overlaps nothing stays as it is; the order is that of the file.
    """
    stretches: list[list[BedRow]] = []
    reach = 0
    for row in sorted(rows, key=lambda row: (row.chrom, row.split, row.strand, row.start)):
        of = stretches[-1][0] if stretches else None
        if of is None or _kind(of) != _kind(row) or row.start >= reach:
            stretches.append([])
            reach = 0
        stretches[-1].append(row)
        reach = max(reach, row.end)
    stretches.sort(key=lambda stretch: min(row.line for row in stretch))
    return [part for stretch in stretches for part in _parts(stretch)]


def _kind(row: BedRow) -> tuple[str, str, str]:
    return row.chrom, row.split, row.strand


def _parts(stretch: Sequence[BedRow]) -> list[BedRow]:
    """The stretch that overlapping rows make up, the first of which it begins with, in parts."""
    if len(stretch) == 1:
        return list(stretch)
    start, end = stretch[0].start, max(row.end for row in stretch)
    n = (end - start) // max(row.end - row.start for row in stretch)
    cuts = [start + i * (end - start) // n for i in range(n + 1)]
    return [stretch[0]._replace(start=a, end=b) for a, b in pairwise(cuts)]


def _text(row: BedRow) -> str:
    return f"line {row.line} ({row.chrom}:{row.start}-{row.end} {row.split})"


def read_columns(path: str | Path, needed: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, counted from 1; its columns) of the rows of a BED file, plain, gzip or bgzip, one at
    a time.

    Raises UserError, when it comes there, for a file that is missing, cut, not text or without
    rows, and for a row that lacks one of the `needed` columns.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file; give the path of a BED file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; change its permissions.")
    number, n_rows = 0, 0
    compression, has_end = compressed(path)
    try:
        if not has_end:
            raise EOFError("it lacks the end marker of bgzip")
        with _opened(path, compression) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip() or line.startswith("#") or line.split()[0] in _NOT_ROWS:
                    continue
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) < len(needed):
                    raise UserError(
                        f"{path}, line {number}: {len(fields)} columns separated by tabs, and "
                        f"{len(needed)} are needed: {', '.join(needed)}."
                    )
                n_rows += 1
                yield number, fields
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is cut, or is not text nor valid gzip, after line {number} ({error}); give a "
            "whole BED file."
        ) from error
    if not n_rows:
        columns = f"{', '.join(needed[:-1])} and {needed[-1]}"
        raise UserError(f"{path} has no rows; give {columns} on each line.")


def _opened(path: Path, compression: Compression) -> TextIOWrapper:
    if compression == "none":
        return path.open(encoding="utf-8")
    return gzip.open(path, "rt", encoding="utf-8")


def parse_place(
    fields: Sequence[str], where: str, lengths: Mapping[str, int], *, check_end: bool = True
) -> tuple[str, int, int]:
    """Chromosome, start and end, of the first three columns of a row that is `where`. Raises
    UserError for what is no interval of the genome."""
    chrom, start_text, end_text = fields[:3]
    try:
        start, end = int(start_text), int(end_text)
    except ValueError:
        raise UserError(
            f"{where}: start {start_text!r} and end {end_text!r} have to be whole numbers, "
            "counted from 0."
        ) from None
    if not 0 <= start < end:
        raise UserError(f"{where}: {start}-{end} is no interval; BED needs 0 <= start < end.")
    if chrom not in lengths:
        raise UserError(
            f"{where}: the FASTA has no chromosome {chrom!r}; {describe_names(lengths, chrom)}"
        )
    if start >= lengths[chrom] or (check_end and end > lengths[chrom]):
        raise UserError(
            f"{where}: {chrom}:{start}-{end} reaches beyond the {lengths[chrom]} bases of "
            f"{chrom}; use the BED of this assembly."
        )
    return chrom, start, end


def parse_strand(fields: Sequence[str], where: str) -> Literal["+", "-"]:
    """The strand in column 6; '+' where there is none."""
    strand = fields[5] if len(fields) > 5 else "+"
    if strand not in ("+", "-", "."):
        raise UserError(f"{where}: strand {strand!r} is none of +, - and '.'; correct column 6.")
    return "-" if strand == "-" else "+"


def _parse(
    fields: Sequence[str], where: str, number: int, lengths: Mapping[str, int], check_ends: bool
) -> BedRow:
    place = parse_place(fields, where, lengths, check_end=check_ends)
    split = fields[3]
    if split not in SPLITS:
        hint = (
            f"write {_OTHER_NAMES[split]!r}"
            if split in _OTHER_NAMES
            else f"use one of {', '.join(SPLITS)}"
        )
        raise UserError(f"{where}: split {split!r} is not known; {hint}.")
    return BedRow(*place, split, parse_strand(fields, where), number)
