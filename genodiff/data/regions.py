"""Regions of a genome to be written anew or looked at: BED files without a split."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, final

from genodiff.data.intervals import parse_place, parse_strand, read_columns


class Region(NamedTuple):
    """A stretch of a chromosome, 0-based and half-open."""

    chrom: str
    start: int
    end: int
    name: str
    strand: Literal["+", "-"]

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start}-{self.end}"


def read_regions(path: str | Path, lengths: Mapping[str, int]) -> list[Region]:
    """The rows of a BED file (plain or gzip) of three or more columns, in its order. A row without
    a name is called by its place.

    `lengths` are the chromosomes of the genome. Raises UserError, with the line, for what the
    format or the genome forbids.
    """
    regions = []
    for number, fields in read_columns(path, ("chromosome", "start", "end")):
        where = f"{path}, line {number}"
        chrom, start, end = parse_place(fields, where, lengths)
        name = fields[3] if len(fields) > 3 and fields[3] not in ("", ".") else None
        region = Region(chrom, start, end, "", parse_strand(fields, where))
        regions.append(region._replace(name=name or str(region)))
    return regions


@final
class Cover:
    """The bases that are in one region or more, on whichever strand."""

    def __init__(self, regions: Iterable[Region]):
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        for region in sorted(regions):
            starts = self._starts.setdefault(region.chrom, [])
            ends = self._ends.setdefault(region.chrom, [])
            if ends and region.start <= ends[-1]:
                ends[-1] = max(ends[-1], region.end)
            else:
                starts.append(region.start)
                ends.append(region.end)

    def within(self, region: Region) -> list[tuple[int, int]]:
        """(start, end) of each stretch of them in `region`, in order; they do not touch."""
        starts, ends = self._starts.get(region.chrom, []), self._ends.get(region.chrom, [])
        first, last = bisect_right(ends, region.start), bisect_left(starts, region.end)
        return [
            (max(region.start, start), min(region.end, end))
            for start, end in zip(starts[first:last], ends[first:last], strict=True)
        ]
