"""Regions with what stands around them, as a model that writes them anew is given them.

A stretch is a region and its flanks, read on the region's strand, in which masks stand for the
bases that are to be written. Bases that are kept, flanks and N among them are tokens like any
other; N that is to be written is a mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from Bio.Seq import Seq
from jaxtyping import Bool, Int, UInt8

from genodiff.data.fasta import SOFT_MASK
from genodiff.data.genome import Genome
from genodiff.data.regions import Cover, Region
from genodiff.data.tokenizer import N_ID, VOCABULARY, DnaTokenizer
from genodiff.errors import UserError

_LETTERS = np.frombuffer("".join(name[0] for name in VOCABULARY).encode(), np.uint8)


class Stretch(NamedTuple):
    """A region with its flanks, on the region's strand: l bases."""

    region: Region
    start: int
    """Of the flanks, on the chromosome."""
    end: int
    span: slice
    """Where the region is among the bases."""
    x: Int[np.ndarray, " l"]
    """Token ids, with masks for what is to be written."""
    is_open: Bool[np.ndarray, " l"]
    """What is to be written."""
    codes: UInt8[np.ndarray, " l"]
    """What the genome has, as `Genome.codes` gives it."""

    @property
    def unknown(self) -> int:
        """The bases to be written that are N in the genome."""
        return int((self.codes[self.is_open] & (SOFT_MASK - 1) == N_ID).sum())

    def changed(self, sequence: str) -> int:
        """The bases of a design, flanks included, that are not the genome's."""
        letters = np.frombuffer(sequence.encode("ascii"), np.uint8)
        return int((letters != _LETTERS[self.codes & (SOFT_MASK - 1)]).sum())

    def with_flanks(self, sequence: str) -> str:
        """A design as text: flanks as they are in the genome, the region in upper case."""
        is_lower = self.codes >= SOFT_MASK
        is_lower[self.span] = False
        letters = np.frombuffer(sequence.encode("ascii"), np.uint8)
        return np.where(is_lower, letters | 0x20, letters).tobytes().decode("ascii")

    def on_plus(self, sequence: str) -> str:
        """The region's bases of a design, read on the + strand."""
        bases = sequence[self.span]
        return str(Seq(bases).reverse_complement()) if self.region.strand == "-" else bases


@final
@dataclass(frozen=True)
class Stretches:
    """The stretches of regions, cut from the genome when they are asked for.

    Args:
        context: bases on each side, fewer at a chromosome's end.
        kept: bases that stay where they are in a region.
    """

    genome: Genome
    regions: Sequence[Region]
    context: int
    kept: Cover
    tokenizer: DnaTokenizer

    def __len__(self) -> int:
        return len(self.regions)

    def __iter__(self) -> Iterator[Stretch]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Stretch:
        """Raises UserError for a region of which nothing is to be written, or nothing is known."""
        region = self.regions[index]
        start = max(region.start - self.context, 0)
        end = min(region.end + self.context, self.genome.lengths[region.chrom])
        span = slice(region.start - start, region.end - start)
        codes = self.genome.codes(region.chrom, start, end)
        is_open = np.zeros(end - start, bool)
        is_open[span] = True
        for first, last in self.kept.within(region):
            is_open[first - start : last - start] = False
        tokens = codes & (SOFT_MASK - 1)
        if not is_open.any():
            raise UserError(
                f"{region.name} ({region}) is kept as a whole, so there is nothing to write; "
                "leave it out of regions= or of keep=."
            )
        if (tokens[span] == N_ID).all():
            raise UserError(
                f"{region.name} ({region}) is nothing but N in the genome, so it is no sequence "
                "to write anew; leave it out of regions=."
            )
        if region.strand == "-":
            complement = np.array(self.tokenizer.complement, np.uint8)
            codes = (complement[tokens] | (codes & SOFT_MASK))[::-1]
            is_open = is_open[::-1]
            span = slice(end - region.end, end - region.start)
        x = np.where(is_open, self.tokenizer.mask_id, codes & (SOFT_MASK - 1)).astype(np.int64)
        return Stretch(region, start, end, span, x, is_open.copy(), codes.copy())
