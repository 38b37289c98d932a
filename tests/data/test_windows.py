from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genodiff.data import BedRow, DnaTokenizer, Genome, GenomeWindows, InsideRows, PublishedShifts
from genodiff.errors import UserError
from tests.data.toys import ids_of, random_sequence, reverse_complement, write_fasta

SEQUENCES = {
    name: random_sequence(length, np.random.default_rng(length))
    for name, length in {"chr1": 3000, "chr2": 2000}.items()
}
ROWS = [
    BedRow("chr2", 100, 1900, "train", "+", 1),
    BedRow("chr1", 0, 3000, "train", "-", 2),
    BedRow("chr1", 50, 1000, "train", "+", 3),
]


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    return Genome(write_fasta(tmp_path / "toy.fa", SEQUENCES, 61), cache_dir=tmp_path)


def make(genome: Genome, *, predict_n: bool = False, **options: Any) -> GenomeWindows:
    tiling = InsideRows(genome, ROWS, 64)
    return GenomeWindows(genome, tiling, DnaTokenizer(predict_n=predict_n), **options)


def all_keys(windows: GenomeWindows, epochs: int = 1) -> list[tuple[int, int]]:
    return [(epoch, index) for epoch in range(epochs) for index in range(len(windows))]


def truth(windows: GenomeWindows, key: tuple[int, int]) -> str:
    window = windows.locate([key])[0]
    text = SEQUENCES[window.chrom][window.start : window.end]
    return text if window.strand == "+" else reverse_complement(text)


@pytest.mark.parametrize("options", [{}, {"reverse_complement": True, "jitter_bp": 40}])
def test_windows_hold_the_bases_they_say(genome: Genome, options: dict) -> None:
    windows = make(genome, **options)
    keys = all_keys(windows, epochs=2)
    batch = windows.collate(windows.__getitems__(keys))
    assert np.array_equal(batch.tokens, [ids_of(truth(windows, key)) for key in keys])


def test_one_item_is_a_row_of_the_batch(genome: Genome) -> None:
    windows = make(genome, reverse_complement=True)
    keys = all_keys(windows)
    batch = windows.__getitems__(keys)
    assert all(np.array_equal(windows[key], row) for key, row in zip(keys, batch, strict=True))
    assert np.array_equal(windows[3], windows[(0, 3)])
    stacked = windows.collate([windows[key] for key in keys])
    assert torch.equal(stacked.tokens, windows.collate(batch).tokens)


def test_without_augmentation_the_strand_is_that_of_the_bed(genome: Genome) -> None:
    windows = make(genome)
    located = windows.locate(range(len(windows)))
    assert all(window.strand == ROWS[window.bed_row].strand for window in located)
    assert windows.cluster_ids.tolist() == [window.bed_row for window in located]


def test_half_of_the_windows_change_strand_and_others_in_each_epoch(genome: Genome) -> None:
    windows = make(genome, reverse_complement=True)
    n, epochs = len(windows), 40
    is_flipped = np.array(
        [
            [w.strand != ROWS[w.bed_row].strand for w in windows.locate(keys)]
            for keys in ([(epoch, i) for i in range(n)] for epoch in range(epochs))
        ]
    )
    # n * epochs fair coins, and as many products of neighbours: 5 sd, false alarms below 1e-6.
    sd = 0.5 / np.sqrt(n * epochs)
    assert abs(is_flipped.mean() - 0.5) < 5 * sd
    assert abs((is_flipped[1:] == is_flipped[:-1]).mean() - 0.5) < 6 * sd


def test_another_seed_changes_strands(genome: Genome) -> None:
    a, b = (make(genome, reverse_complement=True, seed=seed) for seed in (0, 1))
    assert [w.strand for w in a.locate(range(60))] != [w.strand for w in b.locate(range(60))]


def test_jitter_reaches_its_bounds_and_stays_inside_the_row(genome: Genome) -> None:
    windows, still = make(genome, jitter_bp=5), make(genome)
    shifts = set()
    for key in all_keys(windows, epochs=10):
        moved, place = windows.locate([key])[0], still.locate([key])[0]
        bed_row = ROWS[moved.bed_row]
        assert bed_row.start <= moved.start < moved.end <= bed_row.end
        assert moved.end - moved.start == 64
        shifts.add(moved.start - place.start)
    assert shifts == set(range(-5, 6))


def test_weights_are_zero_at_n_and_soft_mask_weight_at_lower_case(genome: Genome) -> None:
    expected = {"N": (0, 0), "n": (0, 0), "A": (1, 1), "a": (0.25, 0.25)}
    for column, predict_n in enumerate((False, True)):
        if predict_n:
            expected |= {"N": (0, 1), "n": (0, 0.25)}
        windows = make(genome, predict_n=predict_n, soft_mask_weight=0.25)
        batch = windows.collate(windows.__getitems__(all_keys(windows)))
        assert batch.tokens.dtype == torch.int64
        assert batch.weights.dtype == torch.float32
        for row, key in enumerate(all_keys(windows)):
            text = truth(windows, key).translate(str.maketrans("CGTcgt", "AAAaaa"))
            assert batch.weights[row].tolist() == [expected[letter][column] for letter in text]


def test_plain_windows_are_neither_augmented_nor_down_weighted(genome: Genome) -> None:
    windows = make(genome, reverse_complement=True, jitter_bp=9, soft_mask_weight=0.0)
    plain, reference = windows.plain(), make(genome)
    keys = all_keys(windows)
    assert np.array_equal(plain.__getitems__(keys), reference.__getitems__(keys))
    weights = plain.collate(plain.__getitems__(keys)).weights
    assert torch.equal(weights, reference.collate(reference.__getitems__(keys)).weights)


def test_published_windows_have_padding_for_n(genome: Genome) -> None:
    tokenizer = DnaTokenizer()
    tiling = PublishedShifts(genome, ROWS[:1], 128, span_bp=1024)
    windows = GenomeWindows(genome, tiling, tokenizer, n_as_padding=True)
    for key in all_keys(windows):
        expected = ids_of(truth(windows, key))
        batch = windows.collate(windows.__getitems__([key]))
        assert np.array_equal(batch.tokens[0], np.where(expected == 11, 4, expected))
        assert np.array_equal(batch.weights[0], expected != 11)


def test_a_batch_of_nothing_but_n_has_no_weight(tmp_path: Path) -> None:
    genome = Genome(write_fasta(tmp_path / "gap.fa", {"gap": "N" * 32}), cache_dir=tmp_path)
    tiling = PublishedShifts(genome, [BedRow("gap", 0, 32, "train", "+", 1)], 8, span_bp=32)
    windows = GenomeWindows(genome, tiling, DnaTokenizer())
    assert windows.collate(windows.__getitems__(all_keys(windows))).weights.sum() == 0


def test_indices_outside_are_refused(genome: Genome) -> None:
    windows = make(genome)
    for index in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter_bp": -1}, "jitter=-1 is no number of bases"),
        ({"soft_mask_weight": -0.5}, r"soft_mask_weight=-0\.5 is a share"),
        ({"soft_mask_weight": float("nan")}, "soft_mask_weight=nan is a share"),
        ({"n_as_padding": True, "predict_n": True}, "predict_n=true"),
    ],
)
def test_bad_options_are_refused(genome: Genome, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(genome, **options)
