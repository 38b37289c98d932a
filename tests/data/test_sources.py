import gzip
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genodiff.data import (
    GenomeWindows,
    Split,
    SyntheticGenome,
    fasta_data,
    hg38_data,
    synthetic_data,
)
from genodiff.errors import UserError
from tests.data.toys import ids_of, random_sequence, write_bed, write_fasta

SEQUENCES = {
    name: random_sequence(1000, np.random.default_rng(seed)) for seed, name in enumerate("ab")
}
ROWS: list[tuple[str, int, int, Split]] = [
    ("b", 500, 1000, "test"),
    ("a", 0, 1000, "train"),
    ("b", 0, 400, "valid"),
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    fasta = write_fasta(tmp_path / "toy.fa", SEQUENCES)
    return fasta, write_bed(tmp_path / "toy.bed", ROWS)


def small_synthetic(tmp_path: Path, **options: Any) -> Any:
    records = {"train_records": 2, "valid_records": 1, "test_records": 1, "record_length": 512}
    return synthetic_data(128, 4, **records, cache_dir=tmp_path, **options)


def test_splits_hold_the_bases_of_their_rows(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = fasta_data(*files, 100, 3, cache_dir=tmp_path)
    for chrom, start, end, split in ROWS:
        tokens = torch.cat([batch.tokens for batch in data.eval_loader(split)])
        assert np.array_equal(tokens.flatten(), ids_of(SEQUENCES[chrom][start:end]))


def test_an_epoch_sees_no_base_twice_where_rows_overlap(
    files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[tuple[str, int, int, Split]] = [("a", 0, 600, "train"), ("a", 400, 1000, "train")]
    bed = write_bed(tmp_path / "overlapping.bed", rows)
    with caplog.at_level("INFO"):
        data = fasta_data(files[0], bed, 100, 5, cache_dir=tmp_path)
    assert "the 1,200 bases of 2 rows are 1,000 of the genome, none read twice" in caplog.text
    tokens = torch.cat([batch.tokens for batch in data.eval_loader("train")])
    assert np.array_equal(tokens.flatten(), ids_of(SEQUENCES["a"]))


def test_only_training_is_augmented(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = fasta_data(
        *(files[0], files[1], 100, 10),
        reverse_complement=True,
        jitter=30,
        soft_mask_weight=0.5,
        cache_dir=tmp_path,
    )
    batch = next(iter(data.train_loader()))
    assert 0.5 in batch.weights
    plain = torch.cat([b.tokens for b in data.eval_loader("train")])
    assert np.array_equal(plain.flatten(), ids_of(SEQUENCES["a"]))
    assert all(0.5 not in b.weights for b in data.eval_loader("train"))


def test_the_description_says_what_was_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = fasta_data(*files, 300, 3, cache_dir=tmp_path)
    description = json.loads(json.dumps(data.describe()))
    assert description["length"] == 300
    assert description["split_policy"] == "strict"
    assert description["fasta"]["records"] == 2
    assert description["fasta"]["bases"] == 2000
    assert len(description["fasta"]["sha256"]) == len(description["bed"]["sha256"]) == 64
    windows = {split: values["windows"] for split, values in description["splits"].items()}
    assert windows == {"train": 3, "valid": 1, "test": 1}


def test_a_split_that_the_bed_lacks_is_refused_when_asked_for(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    bed = write_bed(tmp_path / "toy.bed", ROWS[:2])
    data = fasta_data(files[0], bed, 100, 3, cache_dir=tmp_path)
    assert len(data.eval_loader("test")) == 2
    with pytest.raises(
        UserError, match=r"no valid data; .*toy\.bed has rows for: train 1, test 1"
    ):
        data.eval_loader("valid")


def test_overlap_between_splits_is_refused_unless_as_published(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    bed = write_bed(tmp_path / "toy.bed", [("a", 0, 500, "train"), ("a", 499, 1000, "test")])
    with pytest.raises(UserError, match=r"line 1 .* and line 2 .* overlap"):
        fasta_data(files[0], bed, 64, 4, cache_dir=tmp_path)
    data = fasta_data(files[0], bed, 64, 4, split_policy="caduceus", cache_dir=tmp_path)
    assert len(data.dataset("train")) == 2**20 // 64


def test_the_published_policy_has_padding_for_n_and_fixed_windows(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    data = fasta_data(*files, 64, 16, split_policy="caduceus", cache_dir=tmp_path)
    batch = next(iter(data.eval_loader("train")))
    expected = ids_of(SEQUENCES["a"][: 15 * 64])
    assert np.array_equal(batch.tokens[:15].flatten(), np.where(expected == 11, 4, expected))
    for stride, jitter in ((32, 0), (None, 5)):
        with pytest.raises(UserError, match=f"stride={stride} and jitter={jitter} do not go with"):
            fasta_data(*files, 64, 16, split_policy="caduceus", stride=stride, jitter=jitter)


def test_length_longer_than_any_window_is_refused(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"length=401 is longer than any of the 1 valid windows"):
        fasta_data(*files, 401, 3, cache_dir=tmp_path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_hg38_is_found_in_its_folder(
    ending: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    for path, name in zip(files, ("hg38.ml.fa", "human-sequences.bed"), strict=True):
        data = path.read_bytes()
        (tmp_path / f"{name}{ending}").write_bytes(gzip.compress(data) if ending else data)
    data = hg38_data(tmp_path, 100, 3, cache_dir=tmp_path / "cache")
    assert len(data.dataset("train")) == 10


def test_missing_hg38_files_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no hg38\.ml\.fa.*: genodiff fetch dataset=hg38 out="):
        hg38_data(tmp_path)
    (tmp_path / "hg38.ml.fa.gz").touch()
    with pytest.raises(UserError, match=r"no human-sequences\.bed"):
        hg38_data(tmp_path)


def test_synthetic_data_are_windows_of_the_law_and_drawn_once(tmp_path: Path) -> None:
    data = small_synthetic(tmp_path, n_motifs=2, motif_length=5)
    described = data.describe()
    assert described["splits"]["train"]["bases"] == 1024
    assert described["splits"]["test"]["bases"] == 512
    windows = data.dataset("train")
    assert isinstance(windows, GenomeWindows)
    folder = windows.genome.path.parent
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = small_synthetic(tmp_path, n_motifs=2, motif_length=5)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert again.describe() == described
    other = small_synthetic(tmp_path, n_motifs=2, motif_length=5, genome_seed=1)
    assert other.describe()["fasta"]["sha256"] != described["fasta"]["sha256"]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_appears_meanwhile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SyntheticGenome.write

    def write_while_another_does(self, folder: Path, *args: Any) -> Any:
        write(self, tmp_path / folder.parent.name.split(".")[1], *args)
        return write(self, folder, *args)

    monkeypatch.setattr(SyntheticGenome, "write", write_while_another_does)
    assert len(small_synthetic(tmp_path).dataset("train")) == 8


def _describe(cache_dir: Path) -> Any:
    return small_synthetic(cache_dir).describe()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_draw_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        first, *others = pool.map(_describe, [tmp_path] * 3, chunksize=1)
    assert all(other == first for other in others)
