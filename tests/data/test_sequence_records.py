import gzip
import logging
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from Bio import bgzf

from genodiff.data import SequenceRecord, read_fasta
from genodiff.errors import UserError

TEXT = ">a of chr1\nACGT\nnnNN\n\n>b\nRYSWKMBDHV\n>a\tagain  and again\nA\n"
RECORDS = [
    SequenceRecord("a", "of chr1", "ACGTnnNN"),
    SequenceRecord("b", "", "RYSWKMBDHV"),
    SequenceRecord("a", "again  and again", "A"),
]


def written(path: Path, content: bytes) -> Path:
    if path.suffix == ".bgz":
        with bgzf.BgzfWriter(path, "wb") as file:
            file.write(content)
    else:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.fa", "a.fa.gz", "a.fa.bgz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_records_are_those_of_the_file_however_it_is_compressed(
    tmp_path: Path, name: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / name, TEXT.replace("\n", end).encode())
    assert list(read_fasta(path)) == RECORDS
    assert list(read_fasta(str(path))) == RECORDS
    assert not caplog.records


def test_blank_lines_may_come_first_and_the_last_line_end_may_be_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.fa", b"\n  \n>a\nAC GT\n>b\nG")
    assert [record.letters for record in read_fasta(path)] == ["ACGT", "G"]


def test_a_header_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.fa", ">a é\nACGT\n".encode("latin-1"))
    assert [record.name for record in read_fasta(path)] == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"holds no sequence; give a FASTA file"),
        (b"\n\n", r"holds no sequence"),
        (b"ACGT\n", r"does not begin with '>', so it is not FASTA"),
        (b"@read\nACGT\n+\nIIII\n", r"does not begin with '>'"),
        (b"\x89PNG\r\n\x1a\n\xff", r"does not begin with '>'"),
        (b">a\nA\n>\nC\n", r"record 2 has no name after '>'"),
        (b">a\nA\n> b\nC\n", r"record 2 has no name after '>'"),
        (b">a\nA\n>b\n>c\nA\n", r"record 2, 'b', has no letters"),
        (b">a\nA\n>b", r"record 2, 'b', has no letters"),
        (b">a\nA\n>b\nAC\nGE\n", r"record 2, 'b', has 'E' at base 4 \(counted from 1\)"),
        (b">a\nACU", r"record 1, 'a', has 'U' at base 3"),
        (b">a\nAC-T", r"record 1, 'a', has '-' at base 3"),
    ],
)
def test_what_is_no_fasta_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path / "a.fa", content)
    with pytest.raises(UserError, match=rf"^{path}.*{message}"):
        list(read_fasta(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.fa", tmp_path):
        with pytest.raises(UserError, match=rf"^{path} does not exist or is not a file"):
            next(read_fasta(path))


@pytest.mark.parametrize("name", ["a.fa.gz", "a.fa.bgz"])
def test_a_compressed_file_that_is_cut_is_an_error_after_the_whole_records(
    tmp_path: Path, name: str
) -> None:
    path = written(tmp_path / name, TEXT.encode())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"truncated or is not valid gzip after \d records"):
        list(read_fasta(path))


def test_bgzip_that_is_cut_between_its_blocks_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "a.fa.bgz", TEXT.encode())
    path.write_bytes(path.read_bytes()[:-28])
    with caplog.at_level(logging.WARNING):
        assert list(read_fasta(path)) == RECORDS
    assert "lacks the end marker of bgzip: it may be truncated" in caplog.text


def test_the_memory_is_that_of_one_record(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    with path.open("w") as file:
        for i in range(2000):
            file.write(f">{i}\n{'ACGT' * 2500}\n")
    records = read_fasta(path)
    next(records)
    tracemalloc.start()
    assert sum(len(record.letters) for record in islice(records, 1000)) == 10**7
    assert tracemalloc.get_traced_memory()[1] < 200_000  # some copies of 10,000 letters
    tracemalloc.stop()
