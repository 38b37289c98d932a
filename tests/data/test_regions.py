import gzip
from pathlib import Path

import numpy as np
import pytest

from genodiff.data import Cover, Region, read_regions
from genodiff.errors import UserError

LENGTHS = {"chr1": 100, "chr2": 50}


def test_rows_have_names_and_strands_where_the_file_gives_them(tmp_path: Path) -> None:
    text = "track name=x\n# by hand\nchr1\t10\t20\nchr2\t0\t50\tenhancer\t7\t-\nchr1\t0\t1\t.\n"
    (tmp_path / "plain.bed").write_text(text)
    (tmp_path / "packed.bed.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.bed", "packed.bed.gz"):
        assert read_regions(tmp_path / name, LENGTHS) == [
            Region("chr1", 10, 20, "chr1:10-20", "+"),
            Region("chr2", 0, 50, "enhancer", "-"),
            Region("chr1", 0, 1, "chr1:0-1", "+"),
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t10\n", "line 1: 2 columns separated by tabs, and 3 are needed"),
        ("", "has no rows; give chromosome, start and end on each line"),
        ("chr1\t10\t20\nchr1\t20\t10\n", "line 2: 20-10 is no interval"),
        ("chr1\tten\t20\n", "start 'ten' and end '20' have to be whole numbers"),
        ("chr1\t90\t101\n", "chr1:90-101 reaches beyond the 100 bases of chr1"),
        ("chrX\t1\t2\n", "the FASTA has no chromosome 'chrX'"),
        ("1\t1\t2\n", "the FASTA has no chromosome '1'; it has 'chr1': use the FASTA's names"),
        ("chr1\t1\t2\tx\t0\t?\n", "strand '?' is none of"),
    ],
)
def test_what_is_no_region_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.bed").write_text(text)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        read_regions(tmp_path / "r.bed", LENGTHS)


def test_a_cover_is_cut_to_the_region() -> None:
    cover = Cover(
        [
            Region("chr1", 14, 15, "", "-"),
            Region("chr1", 5, 12, "", "+"),
            Region("chr1", 20, 30, "", "+"),
            Region("chr2", 10, 20, "", "+"),
        ]
    )
    assert cover.within(Region("chr1", 10, 20, "r", "+")) == [(10, 12), (14, 15)]
    assert cover.within(Region("chr3", 10, 20, "r", "+")) == []


def test_a_cover_has_each_base_of_its_regions_and_no_other() -> None:
    generator = np.random.default_rng(0)

    def regions(count: int) -> list[Region]:
        starts, sizes = generator.integers(0, 190, count), generator.integers(1, 10, count)
        return [
            Region("chr1", int(start), int(start + size), "", "+")
            for start, size in zip(starts, sizes, strict=True)
        ]

    for count in (0, 1, 5, 30):
        others = regions(count)
        cover, covered = Cover(others), np.zeros(200, bool)
        for other in others:
            covered[other.start : other.end] = True
        for region in regions(50):
            found = np.zeros(200, bool)
            for start, end in cover.within(region):
                assert region.start <= start < end <= region.end
                found[start:end] = True
            inside = slice(region.start, region.end)
            assert (found[inside] == covered[inside]).all() and found.sum() == found[inside].sum()
