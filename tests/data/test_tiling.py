import logging
from pathlib import Path

import numpy as np
import pytest

from genodiff.data import BedRow, Genome, InsideRows, PublishedShifts
from genodiff.errors import UserError
from tests.data.toys import write_fasta

SEQUENCES = {
    "chr1": "A" * 100,
    "chr2": "N" * 20 + "ACGTN" * 8 + "n" * 10 + "c" * 30,
    "gap": "N" * 40,
}


def row(chrom: str, start: int, end: int) -> BedRow:
    return BedRow(chrom, start, end, "train", "+", 1)


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    return Genome(write_fasta(tmp_path / "toy.fa", SEQUENCES), cache_dir=tmp_path)


def starts_of(tiling: InsideRows | PublishedShifts) -> list[tuple[int, int]]:
    places = tiling.places(np.arange(len(tiling)))
    return list(zip(places.row.tolist(), places.start.tolist(), strict=True))


def test_windows_tile_each_row_from_its_start_and_stay_inside(genome: Genome) -> None:
    rows = [row("chr1", 3, 35), row("chr1", 50, 60), row("chr1", 90, 100)]
    assert starts_of(InsideRows(genome, rows, 10)) == [(0, 3), (0, 13), (0, 23), (1, 50), (2, 90)]
    overlapping = InsideRows(genome, rows[:1], 10, stride_bp=8)
    assert starts_of(overlapping) == [(0, 3), (0, 11), (0, 19)]
    apart = InsideRows(genome, rows[:1], 10, stride_bp=20)
    assert starts_of(apart) == [(0, 3), (0, 23)]


def test_the_room_for_jitter_is_the_row(genome: Genome) -> None:
    places = InsideRows(genome, [row("chr1", 3, 35)], 10).places(np.arange(3))
    assert places.first_start.tolist() == [3, 3, 3]
    assert places.last_start.tolist() == [25, 25, 25]


def test_rows_shorter_than_a_window_are_counted(
    genome: Genome, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row("chr1", 0, 9), row("chr1", 10, 20), row("chr1", 20, 21)]
    with caplog.at_level(logging.WARNING):
        tiling = InsideRows(genome, rows, 10)
    assert starts_of(tiling) == [(1, 10)]
    assert tiling.describe()["rows_too_short"] == 2
    assert "2 of 3 BED rows are shorter than length=10" in caplog.text


@pytest.mark.parametrize(
    ("max_n_fraction", "starts"),
    [(0.0, [70, 80, 90]), (0.19, [70, 80, 90]), (0.2, [20, 30, 40, 50, 70, 80, 90])],
)
def test_windows_with_too_much_n_are_left_out(
    max_n_fraction: float, starts: list[int], genome: Genome
) -> None:
    tiling = InsideRows(genome, [row("chr2", 0, 100)], 10, max_n_fraction=max_n_fraction)
    assert starts_of(tiling) == [(0, start) for start in starts]
    assert tiling.describe()["windows_dropped_for_n"] == 10 - len(starts)


def test_counts_of_n_do_not_depend_on_the_stride(genome: Genome) -> None:
    tiling = InsideRows(genome, [row("chr2", 7, 100)], 10, stride_bp=1, max_n_fraction=0.5)
    n_at = [SEQUENCES["chr2"][start : start + 10].upper().count("N") for start in range(7, 91)]
    assert [start for _, start in starts_of(tiling)] == [
        start for start, n in zip(range(7, 91), n_at, strict=True) if n <= 5
    ]


def test_windows_of_nothing_but_n_are_left_out_whatever_the_fraction(genome: Genome) -> None:
    tiling = InsideRows(genome, [row("chr2", 0, 40)], 10, max_n_fraction=1.0)
    assert starts_of(tiling) == [(0, 20), (0, 30)]


def test_a_split_without_windows_is_refused(genome: Genome) -> None:
    with pytest.raises(
        UserError, match=r"length=101 is longer than any of the 2 train .* 100 bas"
    ):
        InsideRows(genome, [row("chr1", 0, 100), row("chr1", 0, 5)], 101)
    with pytest.raises(
        UserError, match=r"each of the 4 train windows has more than 5 N in 10 bas"
    ):
        InsideRows(genome, [row("gap", 0, 40)], 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_bp": 0}, "length=0 is no number of bases"),
        ({"stride_bp": 0}, "stride=0 is no number of bases"),
        ({"max_n_fraction": 1.5}, r"max_n_fraction=1\.5 is a fraction"),
    ],
)
def test_bad_numbers_are_refused(options: dict, message: str, genome: Genome) -> None:
    with pytest.raises(UserError, match=message):
        InsideRows(genome, [row("chr1", 0, 100)], **{"length_bp": 10, **options})


def test_published_windows_ignore_the_end_of_the_row_and_stop_at_the_chromosome(
    genome: Genome,
) -> None:
    rows = [row("chr1", 0, 5), row("chr1", 40, 41)]
    tiling = PublishedShifts(genome, rows, 32, span_bp=128)
    assert starts_of(tiling) == [
        *[(0, 0), (0, 32), (0, 64), (0, 68)],  # 96 would end at 128: moved back to end at 100
        *[(1, 40), (1, 68), (1, 68), (1, 68)],
    ]
    assert tiling.describe() == {"rows": 2, "windows": 8, "bases": 256}
    places = tiling.places(np.arange(8))
    assert np.array_equal(places.first_start, places.start)  # no room for jitter
    assert np.array_equal(places.last_start, places.start)


def test_published_windows_need_a_divisor_and_a_chromosome_as_long(genome: Genome) -> None:
    with pytest.raises(UserError, match=r"length=48 does not divide the 1048576 bases"):
        PublishedShifts(genome, [row("chr1", 0, 5)], 48)
    with pytest.raises(UserError, match="length=128 is longer than chr1, which has 100 bases"):
        PublishedShifts(genome, [row("chr1", 0, 5)], 128)
