"""The alleles of a VCF on a genome: checked, trimmed, left-aligned, and cut out with context.

A *variant* replaces the bases `ref` of a chromosome, which begin at `start` (0-based), by `alt`;
either may be empty. What has no sequence, or not that of the genome, is a *reason* instead, which
stops nothing. A file of which nothing is of the genome is a UserError.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Int64, UInt8
from numpy import ndarray

from genodiff.data.genome import Genome, describe_names
from genodiff.data.tokenizer import N_ID, DnaTokenizer
from genodiff.data.vcf import VariantFile, VariantRecord
from genodiff.errors import UserError

Reason = Literal[
    "NO_ALT",
    "ALT_IS_REF",
    "SYMBOLIC",
    "BREAKEND",
    "SPANNING_DELETION",
    "NOT_BASES",
    "N_IN_ALLELE",
    "UNKNOWN_CHROM",
    "BEYOND_END",
    "REF_MISMATCH",
    "GENOME_N",
    "TOO_LONG",
    "INDEL",
]

REASONS: Mapping[Reason, str] = {
    "NO_ALT": "there is no ALT allele",
    "ALT_IS_REF": "ALT equals REF",
    "SYMBOLIC": "ALT is symbolic and has no sequence",
    "BREAKEND": "ALT is a breakend",
    "SPANNING_DELETION": "ALT is * and another record says what it is",
    "NOT_BASES": "an allele has letters other than A C G T N",
    "N_IN_ALLELE": "N in what differs",
    "UNKNOWN_CHROM": "the genome has no such chromosome",
    "BEYOND_END": "POS or the end of REF is outside its chromosome",
    "REF_MISMATCH": "REF is not what the genome has there",
    "GENOME_N": "the genome has N where REF has a base",
    "TOO_LONG": "an allele is longer than half the window",
    "INDEL": "an insertion or deletion and a score of substitutions was asked for",
}
"""Why an allele has no score."""

_BASES = re.compile("[ACGTNacgtn]+")
_ENOUGH = 20
"""Records whose REF can be counted on not to match by chance."""
_FOLLOWING = 3
"""How many more of them match at POS + 1 than at POS where positions count from 0: fewer do so by
chance in a file that is right but for a few records."""


class Variant(NamedTuple):
    """`alt` in the place of the bases `ref` that begin at `start`; they share neither their first
    nor their last base."""

    chrom: str
    start: int
    ref: str
    alt: str


class AlleleWindows(NamedTuple):
    """Token ids of a stretch of the genome around a variant, with and without it, and of equal
    length. `partner`: for each token of the alternative, which one of the reference it goes with:
    the same base of the genome wherever both have it, else any that is left."""

    reference: Int64[ndarray, " l"]
    alternative: Int64[ndarray, " l"]
    partner: Int[ndarray, " l"]


def alleles(record: VariantRecord, genome: Genome) -> list[Variant | Reason]:
    """The variant of each ALT allele of a record, left-aligned, or the reason why there is none.

    REF is compared without regard to case. N in it stands for any base, and does no harm where it
    is trimmed away; that the genome has N where REF has a base is a reason.
    """
    wrong = _reason_of_ref(record, genome)
    return [
        wrong or _allele(record.chrom, record.position - 1, record.ref, alternative, genome)
        for alternative in record.alternatives
    ]


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Without the last bases that both share, then without the first."""
    end = 0
    while end < min(len(ref), len(alt)) and ref[-1 - end] == alt[-1 - end]:
        end += 1
    ref, alt = ref[: len(ref) - end], alt[: len(alt) - end]
    first = 0
    while first < min(len(ref), len(alt)) and ref[first] == alt[first]:
        first += 1
    return start + first, ref[first:], alt[first:]


def left_aligned(variant: Variant, genome: Genome) -> Variant:
    """The same haplotype written as far to the left as it can be: of insertions and deletions
    within repeats. Tan et al. 2015 (doi:10.1093/bioinformatics/btv112)."""
    chrom, start, ref, alt = variant
    if ref and alt:
        return variant
    moved = ref or alt
    while start and moved[-1] == (before := _letters(genome, chrom, start - 1, start)):
        moved, start = before + moved[:-1], start - 1
    return Variant(chrom, start, moved if ref else "", moved if alt else "")


def allele_windows(genome: Genome, variant: Variant, context: int) -> AlleleWindows | Reason:
    """Windows of `context` bases of either haplotype, each with its allele in the middle, or as
    near to it as the chromosome's ends allow; shorter on a chromosome that is."""
    chrom, start, ref, alt = variant
    whole = genome.lengths[chrom]
    length = min(context, whole, whole + len(alt) - len(ref))
    if max(len(ref), len(alt)) > length // 2:
        return "TOO_LONG"
    encode = DnaTokenizer().encode
    sides = []
    for allele in (ref, alt):
        right = min((length - len(allele) + 1) // 2, whole - start - len(ref))
        left = min(length - len(allele) - right, start)
        right = length - len(allele) - left
        end = start + len(ref)
        flanks = _ids(genome, chrom, start - left, start), _ids(genome, chrom, end, end + right)
        ids = np.concatenate([flanks[0], encode(allele), flanks[1]]).astype(np.int64)
        sides.append((ids, left, right))
    (reference, *own), (alternative, *other) = sides
    left, right = min(own[0], other[0]), min(own[1], other[1])
    partner = np.full(length, -1)
    partner[other[0] - left : other[0]] = np.arange(own[0] - left, own[0])
    partner[length - other[1] :][:right] = np.arange(length - own[1], length)[:right]
    partner[partner < 0] = np.setdiff1d(np.arange(length), partner)
    return AlleleWindows(reference, alternative, partner)


def check_variants(file: VariantFile, genome: Genome) -> int:
    """How many records a file has, all of which are read.

    Raises UserError for one that is not of this genome: no chromosome is known, or REF is what the
    genome has no more often than by chance, as where positions count from 0 or the assembly is
    another.
    """
    records = known = outside = compared = here = following = 0
    first, example = "", ""
    for record in file:
        records += 1
        first = first or record.chrom
        if record.chrom not in genome.lengths:
            continue
        known += 1
        outside += _reason_of_ref(record, genome) == "BEYOND_END"
        matches = _matches(record, genome, 0)
        if matches is None:
            continue
        compared += 1
        here += matches
        following += bool(_matches(record, genome, 1))
        if not matches and not example:
            found = _letters(genome, *_span(record, 0))
            example = f"{record.chrom}:{record.position} has REF {record.ref[:20]}, the genome "
            example += f"{found[:20]}"
    if records and not known:
        raise UserError(
            f"{file.path}: none of its {records} records is on a chromosome of {genome.path}, "
            f"which has no {first!r}; {describe_names(genome.lengths, first)} bcftools annotate "
            "--rename-chrs renames those of a VCF."
        )
    if records and outside == records:
        raise UserError(
            f"{file.path}: all of its {records} records are outside the chromosomes of "
            f"{genome.path}; give the genome of the assembly that the variants are of."
        )
    counts = f"{file.path}: REF is what the genome has at POS in {here} of {compared} records"
    is_shifted = following - here >= (_FOLLOWING if here else 1)
    if is_shifted and following >= 0.9 * compared:
        raise UserError(
            f"{counts}, and at POS + 1 in {following}: its positions count from 0, and those of a "
            "VCF count from 1; add 1 to each POS."
        )
    if compared and (here == 0 if compared < _ENOUGH else here < compared / 2):
        raise UserError(
            f"{counts} ({example}); give the genome of the assembly that the variants are of."
        )
    return records


def _reason_of_ref(record: VariantRecord, genome: Genome) -> Reason | None:
    if record.chrom not in genome.lengths:
        return "UNKNOWN_CHROM"
    if not _BASES.fullmatch(record.ref):
        return "NOT_BASES"
    chrom, start, end = _span(record, 0)
    if not 0 <= start < end <= genome.lengths[chrom]:
        return "BEYOND_END"
    ref = DnaTokenizer().encode(record.ref)
    found = genome.fetch(chrom, start, end)
    wrong = (ref != found) & (ref != N_ID)
    if (found[wrong] != N_ID).any():
        return "REF_MISMATCH"
    return "GENOME_N" if wrong.any() else None


def _allele(chrom: str, start: int, ref: str, alt: str, genome: Genome) -> Variant | Reason:
    if alt in (".", ""):
        return "NO_ALT"
    if alt == "*":
        return "SPANNING_DELETION"
    if "[" in alt or "]" in alt or alt.startswith(".") or alt.endswith("."):
        return "BREAKEND"
    if alt.startswith("<"):
        return "SYMBOLIC"
    if not _BASES.fullmatch(alt):
        return "NOT_BASES"
    variant = Variant(chrom, *trimmed(start, ref.upper(), alt.upper()))
    if not variant.ref and not variant.alt:
        return "ALT_IS_REF"
    if "N" in variant.ref or "N" in variant.alt:
        return "N_IN_ALLELE"
    return left_aligned(variant, genome)


def _matches(record: VariantRecord, genome: Genome, shift: int) -> bool | None:
    """Whether REF is what the genome has `shift` bases after POS; None where that cannot be
    told."""
    chrom, start, end = _span(record, shift)
    if not _BASES.fullmatch(record.ref) or not 0 <= start < end <= genome.lengths[chrom]:
        return None
    ref, found = DnaTokenizer().encode(record.ref), genome.fetch(chrom, start, end)
    return None if N_ID in ref or N_ID in found else bool((found == ref).all())


def _span(record: VariantRecord, shift: int) -> tuple[str, int, int]:
    start = record.position - 1 + shift
    return record.chrom, start, start + len(record.ref)


def _ids(genome: Genome, chrom: str, start: int, end: int) -> UInt8[ndarray, " l"]:
    """Token ids; of no bases too."""
    return genome.fetch(chrom, start, end) if start < end else np.zeros(0, np.uint8)


def _letters(genome: Genome, chrom: str, start: int, end: int) -> str:
    return DnaTokenizer().decode(genome.fetch(chrom, start, end))
