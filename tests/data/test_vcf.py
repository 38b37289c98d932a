import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from genodiff.data import VariantFile
from genodiff.data.vcf import encoded, open_sink
from genodiff.errors import UserError

HEADER = (
    "##fileformat=VCFv4.2",
    "##contig=<ID=chr1,length=1000>",
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="a, b">',
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\ts2",
)
RECORDS = (
    "chr1\t20\trs1\tA\tC,G\t29.5\tPASS\tAC=1,2\tGT\t0/1\t1/2",
    "chr1\t7\t.\tAC\tA\t.\t.\t.\tGT\t0/0\t./.",
)


def write(path: Path, lines: tuple[str, ...] = (*HEADER, *RECORDS), end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def bgzip(path: Path, contents: bytes) -> Path:
    with open_sink(path, bgzip=True) as sink:
        sink.write(contents)
    return path


def read(path: Path) -> tuple[list[str], list[str]]:
    file = VariantFile(path)
    assert [record.text() for record in file] == [record.text() for record in file]
    return file.header, [record.text() for record in file]


def test_plain_gzip_bgzip_and_other_line_ends_are_the_same_file(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.vcf")
    (tmp_path / "b.vcf.gz").write_bytes(gzip.compress(plain.read_bytes()))
    bgzip(tmp_path / "c.vcf.gz", plain.read_bytes())
    write(tmp_path / "d.vcf", end="\r\n")
    for name in ("a.vcf", "b.vcf.gz", "c.vcf.gz", "d.vcf"):
        assert read(tmp_path / name) == (list(HEADER), list(RECORDS))
    first, second = VariantFile(plain)
    assert (first.line, first.chrom, first.position, first.name) == (6, "chr1", 20, "rs1")
    assert (first.ref, first.alternatives) == ("A", ["C", "G"])
    assert second.alternatives == ["A"]


def test_bcf_is_read_as_its_vcf(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pysam = pytest.importorskip("pysam")
    plain = write(tmp_path / "a.vcf")
    with (
        pysam.VariantFile(str(plain)) as source,
        pysam.VariantFile(str(tmp_path / "a.bcf"), "wb", header=source.header) as sink,
    ):
        for record in source:
            sink.write(record)
    capfd.readouterr()
    header, records = read(tmp_path / "a.bcf")
    assert capfd.readouterr().err == ""  # not a word of an index
    assert records == list(RECORDS)
    assert set(HEADER) <= set(header)


def test_bcf_without_pysam_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bgzip(tmp_path / "a.bcf", b"BCF\2\2")
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(UserError, match=r"is BCF, which pysam reads; pip install 'genodiff\[var"):
        VariantFile(tmp_path / "a.bcf")


def test_damaged_bcf_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pysam")
    bgzip(tmp_path / "a.bcf", b"BCF\2\2 and nothing of its kind")
    with pytest.raises(UserError, match=r"a\.bcf is BCF and cannot be read \(.*\); make it again"):
        VariantFile(tmp_path / "a.bcf")


def test_fields_are_added_to_info_and_nothing_else_changes(tmp_path: Path) -> None:
    first, second = VariantFile(write(tmp_path / "a.vcf"))
    assert first.text(["X=1", "Y"]) == RECORDS[0].replace("AC=1,2", "AC=1,2;X=1;Y")
    assert second.text(["X=1"]) == RECORDS[1].replace("\t.\t.\t.\tGT", "\t.\t.\tX=1\tGT")


def test_bytes_that_are_no_text_come_out_as_they_went_in(tmp_path: Path) -> None:
    line = b"chr1\t7\tna\xefve\tA\tC\t.\t.\tX=\xff\n"
    head = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "a.vcf").write_bytes(head + line)
    file = VariantFile(tmp_path / "a.vcf")
    assert encoded([record.text() for record in file]) == line
    # The one line that tools ask for is put where it is not.
    assert file.header == ["##fileformat=VCFv4.2", head.decode().strip()]


def test_what_is_written_as_bgzip_can_be_indexed(tmp_path: Path) -> None:
    pysam = pytest.importorskip("pysam")
    ordered = encoded([*HEADER, RECORDS[1], RECORDS[0]])
    path = bgzip(tmp_path / "a.vcf.gz", ordered)
    pysam.tabix_index(str(path), preset="vcf")
    with pysam.VariantFile(str(path)) as indexed:
        assert [record.pos for record in indexed.fetch("chr1", 10, 100)] == [20]
    assert gzip.decompress(path.read_bytes()) == ordered


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (RECORDS, r"line 1: a record before any line that begins with #CHROM.* put '#CHROM POS"),
        (HEADER[:2], "has no line that begins with #CHROM; give a VCF"),
        ((), "has no line that begins with #CHROM"),
        (("#CHROM POS ID REF ALT QUAL FILTER INFO",), "line 1: the columns of a VCF are '#CHROM"),
        ((*HEADER, "chr1 7 . A C . . ."), "line 6: 1 columns separated by tabs, and a record of"),
        ((*HEADER, "chr1\t7.5\t.\tA\tC\t.\t.\t."), r"line 6: POS '7\.5' is not a whole number"),
        ((*HEADER, "chr1\t-7\t.\tA\tC\t.\t.\t."), "line 6: POS '-7' is not a whole number"),
    ],
)
def test_what_is_no_vcf_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = write(tmp_path / "a.vcf", lines)
    with pytest.raises(UserError, match=message):
        list(VariantFile(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "a.vcf", tmp_path):
        with pytest.raises(UserError, match="does not exist or is not a file; give the path of a"):
            VariantFile(path)


@pytest.mark.parametrize("where", ["within a block", "between blocks", "plain gzip"])
def test_a_file_that_is_cut_is_one_line(tmp_path: Path, where: str) -> None:
    """Also between two blocks, where what is left is whole but lacks the end marker."""
    names = np.random.default_rng(0).integers(2**62, size=4000)
    many = encoded([*HEADER, *(f"chr1\t7\trs{name}\tA\tC\t.\t.\t." for name in names)])
    path = bgzip(tmp_path / "a.vcf.gz", many)
    whole = gzip.compress(many) if where == "plain gzip" else path.read_bytes()
    end = int.from_bytes(whole[16:18], "little") + 1 if where == "between blocks" else 2000
    path.write_bytes(whole[:end])
    with pytest.raises(
        UserError, match=r"a\.vcf\.gz is truncated or is not valid gzip after line"
    ):
        list(VariantFile(path))
