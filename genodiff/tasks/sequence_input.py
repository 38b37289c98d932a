"""What `sequences=`, or `genome=` and `regions=`, name, for tasks that read one sequence after
another."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from genodiff.data import DnaTokenizer, Genome, Region, file_sha256, read_regions
from genodiff.errors import UserError


class Item(NamedTuple):
    """A sequence: what is told of it in the output, by column, and its tokens."""

    about: dict[str, str | int]
    tokens: Integer[np.ndarray, " l"]


class SequenceInput(NamedTuple):
    """What reads the items from the first on, and the checksums of the files they are in."""

    items: Callable[[], Iterator[Item]]
    digests: dict[str, str]


def sequence_input(
    sequences: str | None,
    genome: str | None,
    regions: str | None,
    cache_dir: str | None,
    *,
    name: str,
    read: Callable[[str], Iterator[Item]],
    kind: str = "FASTA",
) -> SequenceInput:
    """Of a file, which `read` reads and messages call `kind`, or of regions of a genome, each on
    its strand. `name` is the column of their names.

    Raises UserError if neither or both are given, and for files that cannot be read, before any
    work is done; for what is wrong further down in them, when it comes there.
    """
    given = [key for key, value in (("genome", genome), ("regions", regions)) if value]
    if (sequences is None) == (not given):
        raise UserError(
            f"give sequences={kind}, or genome=FASTA and regions=BED: one of them"
            + (f", and not {' and '.join(given)} beside sequences." if given else ".")
        )
    if sequences is not None:
        next(read(sequences))  # raises for what is no such file
        return SequenceInput(
            lambda: read(sequences), {"sequences_sha256": file_sha256(Path(sequences))}
        )
    if genome is None or regions is None:
        missing = "regions=BED" if regions is None else "genome=FASTA"
        raise UserError(f"{given[0]}= is given without {missing}; give both.")
    source = Genome(genome, cache_dir=cache_dir)
    rows = read_regions(regions, source.lengths)
    digests = {"genome_sha256": source.sha256, "regions_sha256": file_sha256(Path(regions))}
    return SequenceInput(lambda: (_region(source, row, name) for row in rows), digests)


def _region(genome: Genome, region: Region, name: str) -> Item:
    tokens = genome.fetch(region.chrom, region.start, region.end)
    if region.strand == "-":
        tokens = np.array(DnaTokenizer.complement, np.uint8)[tokens][::-1].copy()
    place = {key: getattr(region, key) for key in ("chrom", "start", "end", "strand")}
    return Item({name: region.name, **place}, tokens)
