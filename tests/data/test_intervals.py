import gzip
import random
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest
from Bio.bgzf import BgzfWriter

from genodiff.data import BedRow, Split, check_disjoint_splits, read_bed, rows_of
from genodiff.data.intervals import merge_overlaps, read_columns
from genodiff.errors import UserError
from tests.data.toys import write_bed

LENGTHS = {"chr1": 1000, "chr2": 500}


def read(tmp_path: Path, text: str, **options: bool) -> list[BedRow]:
    path = tmp_path / "toy.bed"
    path.write_bytes(text.encode())
    return read_bed(path, LENGTHS, **options)


def test_rows_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = read(tmp_path, "chr2\t0\t10\ttest\nchr1\t5\t1000\ttrain\n")
    assert rows == [
        BedRow("chr2", 0, 10, "test", "+", 1),
        BedRow("chr1", 5, 1000, "train", "+", 2),
    ]
    assert rows_of(rows, "train") == rows[1:]
    assert rows_of(rows, "valid") == []


def test_comments_track_lines_blank_lines_and_windows_line_ends_are_skipped(
    tmp_path: Path,
) -> None:
    text = "#chrom\tstart\r\ntrack name=x\r\nbrowser position\r\n\r\nchr1\t0\t10\ttrain\r\n"
    assert read(tmp_path, text) == [BedRow("chr1", 0, 10, "train", "+", 5)]


def test_the_strand_is_read_from_column_six_only(tmp_path: Path) -> None:
    text = (
        "chr1\t0\t9\ttrain\t-\n"
        "chr1\t0\t9\ttrain\t0\t-\nchr1\t0\t9\ttrain\t0\t+\textra\nchr1\t0\t9\ttrain\t0\t.\n"
    )
    assert [row.strand for row in read(tmp_path, text)] == ["+", "-", "+", "+"]


def test_a_gzipped_bed_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "toy.bed.gz"
    path.write_bytes(gzip.compress(b"chr1\t0\t10\ttrain\n"))
    assert read_bed(path, LENGTHS) == [BedRow("chr1", 0, 10, "train", "+", 1)]


def test_a_bed_that_is_cut_is_refused(tmp_path: Path) -> None:
    """Also between two blocks of bgzip, where it is valid gzip all the same."""
    path = tmp_path / "toy.bed.gz"
    with BgzfWriter(str(path), "wb") as writer:
        writer.write(b"chr1\t0\t10\ttrain\n")
    whole = path.read_bytes()
    assert len(read_bed(path, LENGTHS)) == 1
    for end, message in ((-28, "lacks the end marker of bgzip"), (-40, "after line 0 ")):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=message):
            read_bed(path, LENGTHS)
    path.write_bytes(gzip.compress(b"chr1\t0\t10\ttrain\n" * 9)[:-9])
    with pytest.raises(UserError, match="is cut, or is not text nor valid gzip, after line"):
        read_bed(path, LENGTHS)


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "toy.bed").write_text("chr1\t0\t10\ttrain\n" * 100_000)
    tracemalloc.start()
    assert sum(1 for _ in read_columns(tmp_path / "toy.bed", ("chromosome", "start"))) == 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20  # bytes; the text has 1.6 million


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t0\t10", "line 2: 3 columns separated by tabs, and 4 are needed"),
        ("chr1 0 10 train", "line 2: 1 columns separated by tabs"),
        ("chr1\tzero\t10\ttrain", "line 2: start 'zero' and end '10' have to be whole numbers"),
        ("chr1\t0\t10.5\ttrain", "line 2: start '0' and end '10.5' have to be whole numbers"),
        ("chr1\t10\t10\ttrain", "line 2: 10-10 is no interval"),
        ("chr1\t-1\t10\ttrain", "line 2: -1-10 is no interval"),
        ("chr3\t0\t10\ttrain", "line 2: the FASTA has no chromosome 'chr3'; it has 2 records"),
        ("2\t0\t10\ttrain", "no chromosome '2'; it has 'chr2': use the FASTA's names"),
        ("chr1\t0\t1001\ttrain", "line 2: chr1:0-1001 reaches beyond the 1000 bases of chr1"),
        ("chr1\t0\t10\tvalidation", "split 'validation' is not known; write 'valid'"),
        ("chr1\t0\t10\tfold3", "split 'fold3' is not known; use one of train, valid, test"),
        ("chr1\t0\t10\ttrain\t0\t*", r"strand '\*' is none of"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, f"chr1\t0\t10\ttrain\n{line}\n")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_bed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.bed does not exist"):
        read_bed(tmp_path / "none.bed", LENGTHS)
    with pytest.raises(UserError, match="has no rows"):
        read(tmp_path, "# nothing\n")
    path = tmp_path / "toy.bed.gz"
    path.write_bytes(gzip.compress(b"chr1\t0\t10\ttrain\n")[:-9])
    with pytest.raises(UserError, match="nor valid gzip"):
        read_bed(path, LENGTHS)


def test_ends_beyond_the_chromosome_pass_where_they_are_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, "chr1\t0\t2000\ttrain\n", check_ends=False)[0].end == 2000
    with pytest.raises(UserError, match="reaches beyond"):
        read(tmp_path, "chr1\t1000\t2000\ttrain\n", check_ends=False)


def test_overlap_between_splits_is_found_in_any_order(tmp_path: Path) -> None:
    rows = [
        ("chr1", 0, 900, "train"),
        ("chr1", 10, 20, "train"),  # hides behind the longer row
        ("chr1", 100, 110, "train"),
        ("chr1", 899, 950, "test"),
        ("chr2", 0, 500, "valid"),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        path = write_bed(tmp_path / "toy.bed", rows)
        with pytest.raises(UserError, match=r"\(chr1:0-900 train\) and .*\(chr1:899-950 test\)"):
            check_disjoint_splits(read_bed(path, LENGTHS), path)


def test_unsorted_disjoint_splits_pass_and_rows_of_one_split_may_overlap(tmp_path: Path) -> None:
    rows = [
        ("chr2", 0, 500, "test"),
        ("chr1", 500, 1000, "valid"),
        ("chr1", 0, 500, "train"),
        ("chr1", 100, 400, "train"),
        ("chr1", 600, 700, "valid"),
    ]
    path = write_bed(tmp_path / "toy.bed", rows)
    check_disjoint_splits(read_bed(path, LENGTHS), path)


def test_rows_without_overlaps_are_left_as_they_are(tmp_path: Path) -> None:
    text = "chr2\t0\t10\ttest\nchr1\t5\t900\ttrain\nchr1\t900\t1000\ttrain\nchr1\t0\t5\tvalid\n"
    rows = read(tmp_path, text)
    assert merge_overlaps(rows) == rows


def test_overlapping_rows_become_equal_parts_as_long_as_the_longest_of_them(
    tmp_path: Path,
) -> None:
    text = "chr1\t100\t300\ttrain\nchr2\t0\t9\ttrain\nchr1\t0\t200\ttrain\nchr1\t250\t450\ttrain\n"
    merged = merge_overlaps(read(tmp_path, text))
    assert [(row.chrom, row.start, row.end) for row in merged] == [
        ("chr1", 0, 225),
        ("chr1", 225, 450),
        ("chr2", 0, 9),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_merged_rows_hold_every_base_once_and_no_other(seed: int, tmp_path: Path) -> None:
    draw, rows = random.Random(seed), []
    splits: tuple[Split, ...] = ("train", "test")
    strands: tuple[Literal["+", "-"], ...] = ("+", "-")
    for line in range(1, 25):
        start = draw.randint(0, 800)
        end = start + draw.randint(1, 120)
        rows.append(BedRow("chr1", start, end, draw.choice(splits), draw.choice(strands), line))
    merged = merge_overlaps(rows)
    for split, strand in {(row.split, row.strand) for row in rows}:
        mine = [row for row in rows if (row.split, row.strand) == (split, strand)]
        parts = [row for row in merged if (row.split, row.strand) == (split, strand)]
        bases = [base for row in parts for base in range(row.start, row.end)]
        assert len(bases) == len(set(bases))
        assert set(bases) == {base for row in mine for base in range(row.start, row.end)}
        shortest = min(row.end - row.start for row in mine)
        assert all(row.end - row.start >= shortest for row in parts)
