"""Alleles on a genome, against the haplotypes that they spell."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data import (
    REASONS,
    AlleleWindows,
    Genome,
    Variant,
    VariantFile,
    VariantRecord,
    allele_windows,
    alleles,
    check_variants,
)
from genodiff.data.variants import left_aligned, trimmed
from genodiff.errors import UserError
from tests.data.toys import ids_of, write_fasta

CHR1 = "TTTACGTCACACACAGGGGNNACGTacgtcatgcttagcatcgacttagcactacgat"
CHR2 = "ACGTACGATT"
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"

bases = st.text("ACGT", max_size=6)


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    folder = tmp_path_factory.mktemp("genome")
    return genome_of(folder, {"chr1": CHR1, "chr2": CHR2})


def genome_of(folder: Path, sequences: dict[str, str]) -> Genome:
    return Genome(write_fasta(folder / "g.fa", sequences), cache_dir=folder / "cache")


def record(chrom: str, position: int, ref: str, alt: str) -> VariantRecord:
    return VariantRecord(1, [chrom, str(position), ".", ref, alt, ".", ".", "."])


def changed(sequence: str, start: int, ref: str, alt: str) -> str:
    assert sequence[start : start + len(ref)].upper() == ref
    return sequence[:start].upper() + alt + sequence[start + len(ref) :].upper()


@given(bases, bases, bases, bases)
def test_trimming_spells_the_same_haplotype_and_leaves_nothing_shared(
    before: str, ref: str, alt: str, after: str
) -> None:
    whole = f"{before}{ref}{after}"
    start, short_ref, short_alt = trimmed(len(before), ref, alt)
    assert changed(whole, start, short_ref, short_alt) == f"{before}{alt}{after}"
    if short_ref and short_alt:
        assert short_ref[0] != short_alt[0] and short_ref[-1] != short_alt[-1]


def test_all_ways_to_write_an_indel_become_one(genome: Genome) -> None:
    """Every deletion and insertion of up to three bases of CHR1[:19], by its haplotype."""
    sequence, known = CHR1[:19], dict[str, Variant]()
    ways = 0
    for start in range(1, 19):
        for length in (1, 2, 3):
            ref, alt = sequence[start - 1 : start + length], sequence[start - 1]
            others = [(ref, alt)] if len(ref) == length + 1 else []
            others += [(alt, alt + inserted) for inserted in ("A", "CA", "GGG")]
            for one in others:
                (variant,) = alleles(record("chr1", start, *one), genome)
                assert isinstance(variant, Variant)
                haplotype = changed(sequence, start - 1, *one)
                assert changed(sequence, *variant[1:]) == haplotype
                assert known.setdefault(haplotype, variant) == variant
                ways += 1
    assert ways > 1.5 * len(known)


def test_variants_of_two_bases_or_more_stay_where_they_are(genome: Genome) -> None:
    (variant,) = alleles(record("chr1", 8, "CACACA", "CACGCTA"), genome)
    assert isinstance(variant, Variant)
    assert variant == Variant("chr1", 10, "AC", "GCT")
    assert left_aligned(variant, genome) == variant
    assert alleles(record("chr1", 23, "CGTa", "GGTt"), genome) == [
        Variant("chr1", 22, "CGTA", "GGTT")
    ]


@pytest.mark.parametrize(
    ("chrom", "position", "ref", "alt", "reason"),
    [
        ("chr1", 4, "A", ".", "NO_ALT"),
        ("chr1", 4, "A", "a", "ALT_IS_REF"),
        ("chr1", 4, "A", "<DEL>", "SYMBOLIC"),
        ("chr1", 4, "A", "<*>", "SYMBOLIC"),
        ("chr1", 4, "A", "A]chr2:3]", "BREAKEND"),
        ("chr1", 4, "A", "[chr2:3[A", "BREAKEND"),
        ("chr1", 4, "A", "A.", "BREAKEND"),
        ("chr1", 4, "A", ".A", "BREAKEND"),
        ("chr1", 4, "A", "*", "SPANNING_DELETION"),
        ("chr1", 4, "A", "R", "NOT_BASES"),
        ("chr1", 4, "-", "T", "NOT_BASES"),
        ("chr1", 4, "A", "-", "NOT_BASES"),
        ("chr1", 4, "A", "N", "N_IN_ALLELE"),
        ("chr1", 20, "N", "A", "N_IN_ALLELE"),
        ("chr1", 4, "N", "T", "N_IN_ALLELE"),
        ("1", 4, "A", "C", "UNKNOWN_CHROM"),
        ("chr2", 10, "TA", "T", "BEYOND_END"),
        ("chr2", 11, "T", "A", "BEYOND_END"),
        ("chr2", 0, "T", "A", "BEYOND_END"),
        ("chr1", 4, "C", "A", "REF_MISMATCH"),
        ("chr1", 20, "A", "C", "GENOME_N"),
        ("chr1", 19, "GA", "G", "GENOME_N"),
        ("chr1", 18, "CAA", "C", "REF_MISMATCH"),
    ],
)
def test_what_has_no_sequence_has_a_reason(
    genome: Genome, chrom: str, position: int, ref: str, alt: str, reason: str
) -> None:
    assert alleles(record(chrom, position, ref, alt), genome) == [reason]
    assert reason in REASONS


def test_each_allele_is_judged_alone_and_padding_may_be_n(genome: Genome) -> None:
    assert alleles(record("chr1", 4, "ac", "A,<DEL>,AT,ACG"), genome) == [
        Variant("chr1", 4, "C", ""),
        "SYMBOLIC",
        Variant("chr1", 4, "C", "T"),
        Variant("chr1", 5, "", "G"),
    ]
    assert alleles(record("chr1", 21, "NA", "N"), genome) == [Variant("chr1", 21, "A", "")]


@pytest.mark.parametrize("context", [10, 11, 24, 57])
def test_windows_are_the_haplotypes_cut_to_one_length(genome: Genome, context: int) -> None:
    """Against the changed text of the chromosome, for variants all along it."""
    whole, seen = CHR1.upper(), 0
    for start in range(0, len(whole) - 2, 5):
        two = whole[start : start + 2]
        for ref, alt in (("", "GT"), ("", "A"), (two[0], "T"), (two, ""), (two, "CA"), (two, "G")):
            windows = allele_windows(genome, Variant("chr1", start, ref, alt), context)
            assert isinstance(windows, AlleleWindows)
            reference, alternative, partner = windows
            haplotype = changed(whole, start, ref, alt)
            length = min(context, len(whole), len(haplotype))
            first = cut(whole, start, len(ref), length), cut(haplotype, start, len(alt), length)
            assert (reference == ids_of(whole[first[0] :][:length])).all()
            assert (alternative == ids_of(haplotype[first[1] :][:length])).all()
            # The place on the chromosome of each token; of an allele's own bases none.
            places = np.arange(len(whole))
            own, other = (
                places[first[0] :][:length],
                np.concatenate([places[:start], [-1] * len(alt), places[start + len(ref) :]])[
                    first[1] :
                ][:length],
            )
            assert sorted(partner) == list(range(length))
            for mine, theirs in zip(other, own[partner], strict=True):
                if mine >= 0 and mine in own:
                    assert mine == theirs
                    seen += 1
            if len(ref) == len(alt):
                assert (partner == np.arange(length)).all()
    assert seen > 400


def cut(text: str, start: int, allele: int, length: int) -> int:
    """Where a window begins that has the allele in its middle, or as near as the ends allow."""
    return min(max(start - (length - allele) // 2, 0), len(text) - length)


def test_an_allele_that_leaves_no_context_is_too_long(genome: Genome) -> None:
    assert allele_windows(genome, Variant("chr1", 9, "", "A" * 11), 20) == "TOO_LONG"
    assert allele_windows(genome, Variant("chr1", 9, "ACACACAGGGG", ""), 20) == "TOO_LONG"
    assert allele_windows(genome, Variant("chr2", 9, "", "A" * 30), 100) == "TOO_LONG"


def variant_file(folder: Path, rows: list[tuple[str, int, str, str]]) -> VariantFile:
    lines = (f"{c}\t{p}\t.\t{ref}\t{alt}\t.\t.\t.\n" for c, p, ref, alt in rows)
    (folder / "v.vcf").write_text(HEADER + "".join(lines))
    return VariantFile(folder / "v.vcf")


def rows_of_genome(shift: int = 0) -> list[tuple[str, int, str, str]]:
    """The letter of each place, which is said to be `shift` from where it is."""
    letters = enumerate(CHR1.upper(), start=1)
    return [("chr1", at + shift, x, "A" if x != "A" else "C") for at, x in letters if at > 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("1", 4, "A", "C"), ("2", 4, "A", "C")],
            "none of its 2 records is on a chromosome of .*g.fa, which has no '1'; it has 'chr1': "
            "use the FASTA's names. bcftools annotate --rename-chrs renames",
        ),
        (
            rows_of_genome(-1),
            r"at POS in \d+ of 54 records, and at POS \+ 1 in 54: its positions count from 0, and "
            "those of a VCF count from 1; add 1 to each POS",
        ),
        (  # of few records some match by chance
            rows_of_genome(-1)[:9],
            r"at POS in [1-4] of 9 records, and at POS \+ 1 in 9: its positions count from 0",
        ),
        (
            [("chr1", 4, "C", "A"), ("chr2", 1, "G", "A")],
            r"REF is what the genome has at POS in 0 of 2 records \(chr1:4 has REF C, the genome "
            r"A\); give the genome of the assembly",
        ),
        (
            rows_of_genome(3),
            r"at POS in \d+ of \d+ records \(chr1:5 has REF T, the genome C\); give the genome",
        ),
        (
            [("chr2", 1001, "C", "A"), ("chr2", 1003, "G", "A")],
            "all of its 2 records are outside the chromosomes of .*g.fa; give the genome of the",
        ),
    ],
)
def test_a_file_of_another_genome_is_refused(
    genome: Genome, tmp_path: Path, rows: list[tuple[str, int, str, str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_variants(variant_file(tmp_path, rows), genome)


def test_a_few_wrong_records_are_no_reason_to_stop(genome: Genome, tmp_path: Path) -> None:
    wrong = [("chr1", 4, "C", "A"), ("chrX", 4, "C", "A"), ("chr1", 999, "C", "A")]
    rows = [*wrong, ("chr1", 4, "A", "C"), ("chr1", 20, "N", "C"), ("chr1", 4, "A", "<DEL>")]
    assert check_variants(variant_file(tmp_path, rows), genome) == 6
    assert check_variants(variant_file(tmp_path, []), genome) == 0
    assert check_variants(variant_file(tmp_path, rows_of_genome()), genome) == len(CHR1) - 1


def test_any_number_of_records_is_read_in_the_same_memory(genome: Genome, tmp_path: Path) -> None:
    def peak(n: int) -> int:
        file = variant_file(tmp_path, [("chr1", 4, "AC", "A,AT,<DEL>")] * n)
        tracemalloc.start()
        assert check_variants(file, genome) == n
        assert sum(len(alleles(one, genome)) for one in file) == 3 * n
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is made once
    assert peak(100) < peak(20) + 10_000
