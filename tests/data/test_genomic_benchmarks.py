"""Genomic Benchmarks by every road, on a small set of the same layout."""

import gzip
import logging
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from genodiff.config import config_dir
from genodiff.data import DnaTokenizer, LabelledSequences, Region, genomic_benchmarks
from genodiff.data.genomic_benchmarks import (
    GENOMIC_BENCHMARKS,
    GenomicBenchmark,
    genomic_benchmarks_task,
)
from genodiff.data.remote_file import RemoteFile
from genodiff.errors import OutsideError, UserError
from tests.data.toys import random_sequence, reverse_complement, write_fasta

NAME = "toy"
GENOME = {
    name: random_sequence(400, np.random.default_rng(seed), "ACGTN")
    for seed, name in enumerate(("1", "2", "X"))
}
# (split, class) to id, region, start, end, strand: the order of ids is neither that of rows nor
# that of letters, and the classes do not come in order.
Row = tuple[str, str, int, int, str]
INTERVALS: Mapping[tuple[str, str], list[Row]] = {
    ("train", "positive"): [("10", "chr1", 0, 30, "+"), ("9", "chr2", 7, 9, "-")],
    ("train", "negative"): [("7", "chrX", 399, 400, ""), ("11", "chr1", 100, 180, "nan"),
                            ("2", "chr2", 0, 400, "NaN")],
    ("test", "positive"): [("1", "chr1", 5, 35, "-")],
    ("test", "negative"): [("3", "chrX", 20, 60, "+")],
}  # fmt: skip
PUBLISHED = GenomicBenchmark(("negative", "positive"), 5, 2, 30, (3, 2), (1, 1))


@pytest.fixture(autouse=True)
def toy_is_published(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    published = {**GENOMIC_BENCHMARKS, NAME: PUBLISHED}
    monkeypatch.setattr(genomic_benchmarks, "GENOMIC_BENCHMARKS", published)


def text_of(row: Row) -> str:
    _, region, start, end, strand = row
    forward = GENOME[region.removeprefix("chr")][start:end]
    return reverse_complement(forward) if strand == "-" else forward


EXPECTED = {
    split: [
        (label, text_of(row))
        for label in ("negative", "positive")
        for row in sorted(INTERVALS[split, label], key=lambda row: int(row[0]))
    ]
    for split in ("train", "test")
}


def decoded(sequences: LabelledSequences) -> list[tuple[str, str]]:
    labels = [PUBLISHED.classes[i] for i in sequences.labels]
    texts = [DnaTokenizer().decode(sequences[i]) for i in range(len(sequences))]
    return list(zip(labels, texts, strict=True))


def assert_is_toy(task: Any) -> None:
    assert task.name == NAME and task.classes == ("negative", "positive") and task.valid is None
    assert decoded(task.train) == EXPECTED["train"]
    assert decoded(task.test) == EXPECTED["test"]
    assert task.source["unknown"] == {"letters": 0, "sequences": 0}


def prepare(root: Path) -> Path:
    """A prepared folder under root."""
    for (split, label), rows in INTERVALS.items():
        folder = root / NAME / split / label
        folder.mkdir(parents=True)
        for row in rows:
            (folder / f"{row[0]}.txt").write_text(text_of(row))
        (folder / "._9.txt").write_bytes(b"\x00\x05\x16\x07")  # as a Mac leaves them
        (folder / "notes.md").write_text("not a sequence")
    (root / NAME / "train" / ".DS_Store").write_text("")
    return root


def prepare_zip(root: Path, top: str = f"{NAME}/") -> Path:
    tree = prepare(root / "unpacked") / NAME
    path = root / f"{NAME}_v0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*"), reverse=True):
            archive.write(file, top + str(file.relative_to(tree)))
    return path


def prepare_intervals(folder: Path, header: str = "id,region,start,end,strand") -> Path:
    for (split, label), rows in INTERVALS.items():
        path = folder / NAME / split / f"{label}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / NAME / "metadata.yaml").write_text("version: 0")
    return folder


def genome(tmp_path: Path, sequences: Mapping[str, str] = GENOME, name: str = "g.fa") -> Path:
    return write_fasta(tmp_path / name, sequences)


def test_a_prepared_folder_is_read_in_one_order(tmp_path: Path) -> None:
    assert_is_toy(genomic_benchmarks_task(NAME, prepare(tmp_path)))


@pytest.mark.parametrize("top", ["", f"{NAME}/", f"a/{NAME}/"])
def test_a_zip_is_read_as_it_came(top: str, tmp_path: Path) -> None:
    prepare_zip(tmp_path, top)
    task = genomic_benchmarks_task(NAME, tmp_path)
    assert_is_toy(task)
    assert task.source["read_from"] == str(tmp_path / "toy_v0.zip")


@pytest.mark.parametrize("prefix", ["", "chr"])
def test_intervals_are_cut_from_a_genome_and_keep_their_place(prefix: str, tmp_path: Path) -> None:
    fasta = genome(tmp_path, {prefix + name: text for name, text in GENOME.items()})
    intervals = prepare_intervals(tmp_path / "datasets")
    task = genomic_benchmarks_task(
        NAME, intervals=intervals, fasta=fasta, cache_dir=tmp_path / "c"
    )
    assert_is_toy(task)
    assert task.train.regions == (
        Region("chr2", 0, 400, "2", "+"),
        Region("chrX", 399, 400, "7", "+"),
        Region("chr1", 100, 180, "11", "+"),
        Region("chr2", 7, 9, "9", "-"),
        Region("chr1", 0, 30, "10", "+"),
    )
    again = genomic_benchmarks_task(
        NAME, intervals=intervals, fasta=str(fasta), cache_dir=tmp_path / "c"
    )
    assert again.train.regions == task.train.regions and again.source == task.source


def test_each_class_may_have_a_genome_of_its_own(tmp_path: Path) -> None:
    """Transcripts, named with their version in the FASTA, for one; the other has the same names
    with other bases."""
    reversed_names = {f"{name}.12": text for name, text in GENOME.items()}
    other = {f"chr{name}": text[::-1] for name, text in GENOME.items()}
    intervals = prepare_intervals(tmp_path / "datasets")
    fasta = {
        "positive": genome(tmp_path, {f"chr{name}": t for name, t in reversed_names.items()}),
        "negative": genome(tmp_path, other, "other.fa"),
    }
    task = genomic_benchmarks_task(NAME, tmp_path, intervals=intervals, fasta=fasta)
    read = decoded(task.train)
    assert [text for label, text in read if label == "positive"] == [
        text for label, text in EXPECTED["train"] if label == "positive"
    ]
    assert read[0] == ("negative", GENOME["2"][::-1])
    # chr1 of the one is not that of the other, so that nothing of it is shared
    chroms: dict[int, set[str]] = {0: set(), 1: set()}
    for region, label in zip(task.train.regions or (), task.train.labels.tolist(), strict=True):
        assert region.chrom[:8] in ("chr1 of ", "chr2 of ", "chrX of ")
        chroms[label].add(region.chrom)
    assert chroms[0] and chroms[1] and not chroms[0] & chroms[1]
    with pytest.raises(UserError, match=r"data.fasta= names human, and toy has the classes neg"):
        genomic_benchmarks_task(
            NAME, tmp_path, intervals=intervals, fasta={"human": fasta["negative"]}
        )


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Empty modules that can be imported, for want of the packages."""
    stand_ins = {
        name: ModuleType(name)
        for name in ("datasets", "genomic_benchmarks", "genomic_benchmarks.loc2seq")
    }
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_ins


def test_the_package_downloads_where_there_is_nothing(
    tmp_path: Path, modules: dict[str, ModuleType]
) -> None:
    asked = []

    def download_dataset(name: str, version: int, dest_path: str) -> Path:
        asked.append((name, version))
        return prepare(Path(dest_path)) / name

    vars(modules["genomic_benchmarks.loc2seq"])["download_dataset"] = download_dataset
    root = tmp_path / "root"
    assert_is_toy(genomic_benchmarks_task(NAME, root, package=True))
    assert [path.name for path in root.iterdir()] == ["toy.task"]
    assert_is_toy(genomic_benchmarks_task(NAME, root, package=True))
    assert_is_toy(genomic_benchmarks_task(NAME, root))
    assert asked == [(NAME, 0)]


class Held(dict[str, list[Any]]):
    """As much of a `datasets.Dataset` as is used."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None):
        super().__init__(columns)
        self.features = {"label": SimpleNamespace(names=names) if names else SimpleNamespace()}


@pytest.mark.parametrize("names", [None, ["negative", "positive"]])
def test_a_mirror_on_the_hub_is_read_once(
    names: list[str] | None, tmp_path: Path, modules: dict[str, ModuleType]
) -> None:
    asked = []

    def load_dataset(path: str, split: str) -> Held:
        asked.append((path, split))
        rows = EXPECTED[split]
        return Held(
            {
                "seq": [text.lower() for _, text in rows],
                "label": [PUBLISHED.classes.index(label) for label, _ in rows],
            },
            names,
        )

    vars(modules["datasets"])["load_dataset"] = load_dataset
    for _ in range(2):
        task = genomic_benchmarks_task(NAME, tmp_path, hub="somebody")
        assert task.classes == (tuple(names) if names else ("0", "1"))
        assert decoded(task.train) == EXPECTED["train"]
        assert decoded(task.test) == EXPECTED["test"]
    mirror = "somebody/Genomic_Benchmarks_toy"
    assert asked == [(mirror, "train"), (mirror, "test")]


def fail(*given: object, **named: object) -> None:
    raise ConnectionError("no route\nto host")


def test_a_failed_download_is_one_line(tmp_path: Path, modules: dict[str, ModuleType]) -> None:
    vars(modules["datasets"])["load_dataset"] = fail
    vars(modules["genomic_benchmarks.loc2seq"])["download_dataset"] = fail
    with pytest.raises(OutsideError, match=r"ConnectionError: no route to host.*fetch dataset="):
        genomic_benchmarks_task(NAME, tmp_path, package=True)
    with pytest.raises(
        OutsideError, match=r"train of me/Geno.*read from the Hub .ConnectionError"
    ):
        genomic_benchmarks_task(NAME, tmp_path, hub="me")
    vars(modules["datasets"])["load_dataset"] = lambda path, split: Held({"dna": []}, None)
    with pytest.raises(OutsideError, match="KeyError: 'seq'"):
        genomic_benchmarks_task(NAME, tmp_path, hub="me")


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("datasets", "genomic_benchmarks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"data.hub=me needs .* pip install datasets\."):
        genomic_benchmarks_task(NAME, tmp_path, hub="me")
    with pytest.raises(UserError, match=r"package=true needs .* pip install genomic-benchmarks\."):
        genomic_benchmarks_task(NAME, tmp_path, package=True)


def test_one_file_serves_without_the_folder_and_notices_a_changed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    first = genomic_benchmarks_task(NAME, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        second = genomic_benchmarks_task(NAME, tmp_path)
    assert second.source == first.source
    more = tmp_path / NAME / "train" / "negative"
    (more / "12.txt").write_text("ACGT")
    os.utime(more, ns=(1, 1))
    task = genomic_benchmarks_task(NAME, tmp_path, check_counts=False)
    assert decoded(task.train)[3] == ("negative", "ACGT")
    (tmp_path / NAME).rename(tmp_path / "gone")
    assert len(genomic_benchmarks_task(NAME, tmp_path, check_counts=False).train) == 6
    with pytest.raises(UserError, match="the sequences of train are 6, and 5 are published"):
        genomic_benchmarks_task(NAME, tmp_path)
    damaged = (tmp_path / "toy.task").read_bytes()[:-1]
    (tmp_path / "toy.task").write_bytes(damaged)
    with pytest.raises(UserError, match=r"toy.task is damaged"):
        genomic_benchmarks_task(NAME, tmp_path)
    (tmp_path / "gone").rename(tmp_path / NAME)
    (more / "12.txt").unlink()
    assert_is_toy(genomic_benchmarks_task(NAME, tmp_path))


def test_numbers_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    tree = prepare(tmp_path) / NAME
    lost = tree / "train" / "positive" / "10.txt"
    text = lost.read_text()
    lost.unlink()
    message = r"toy: the sequences of train are 4, and 5 are published; get .*check_counts=false"
    with pytest.raises(UserError, match=message):
        genomic_benchmarks_task(NAME, tmp_path)
    assert not (tmp_path / "toy.task").exists()
    (tree / "train" / "negative" / "10.txt").write_text(text)
    message = r"train are \(4, 1\) of the classes, and \(3, 2\) are published"
    with pytest.raises(UserError, match=message):
        genomic_benchmarks_task(NAME, tmp_path)
    assert len(genomic_benchmarks_task(NAME, tmp_path, check_counts=False).train) == 5
    for split in ("train", "test"):
        (tree / split / "positive").rename(tree / split / "other")
    with pytest.raises(UserError, match="has the classes negative, other here, and negative, pos"):
        genomic_benchmarks_task(NAME, tmp_path)


def test_a_truncated_zip_is_one_line(tmp_path: Path) -> None:
    path = prepare_zip(tmp_path)
    whole = path.read_bytes()
    at = whole.index(b"11.txt") + 20  # in what is compressed of one
    for content in (
        b"",
        whole[: len(whole) // 2],
        whole[:-1],
        whole[:at] + b"??" + whole[at + 2 :],
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"toy_v0.zip is truncated or is not a valid zip") as e:
            genomic_benchmarks_task(NAME, tmp_path)
        assert "\n" not in str(e.value)


def test_folders_that_are_not_whole_are_one_line(tmp_path: Path) -> None:
    tree = prepare(tmp_path) / NAME
    wrong = tree / "test" / "negative" / "3.txt"
    for content, message in {
        "": "3.txt: the sequence is empty",
        "AC GT": "3.txt: ' ' at letter 3",
        "ACé": "3.txt: .* at letter 3 of the sequence is not an IUPAC letter",
    }.items():
        wrong.write_text(content)
        with pytest.raises(UserError, match=message):
            genomic_benchmarks_task(NAME, tmp_path)
    wrong.unlink()
    with pytest.raises(UserError, match=r"test of .* has no sequence of class 'negative'"):
        genomic_benchmarks_task(NAME, tmp_path)
    (tree / "test" / "positive" / "1.txt").unlink()
    with pytest.raises(UserError, match=r"test of .* has no rows"):
        genomic_benchmarks_task(NAME, tmp_path)
    (tree / "test").rename(tree / "tset")
    with pytest.raises(UserError, match=r"toy/test cannot be read .No such file.* NAME/{train,te"):
        genomic_benchmarks_task(NAME, tmp_path)
    (tree / "test").write_text("")
    with pytest.raises(UserError, match=r"toy/test cannot be read .Not a directory"):
        genomic_benchmarks_task(NAME, tmp_path)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("1,chr9,0,5,+", "line 2: the FASTA has no chromosome 'chr9'; it has 3 records: 1, 2, X"),
        ("1,chr1,0,500,+", "line 2: 1:0-500 reaches beyond the 400 bases of 1"),
        ("1,chr1,5,5,+", "line 2: 5-5 is no interval"),
        ("1,chr1,a,5,+", "line 2: start 'a' and end '5' have to be whole numbers"),
        ("1,chr1,0,5,x", "line 2: strand 'x' is none of"),
        ("1,chr1,0,5", "line 2: columns in the row: 4, in the header: 5"),
    ],
)
def test_intervals_that_are_none_are_refused_with_their_line(
    cells: str, message: str, tmp_path: Path
) -> None:
    intervals = prepare_intervals(tmp_path / "datasets")
    path = intervals / NAME / "test" / "positive.csv.gz"
    path.write_bytes(gzip.compress(f"id,region,start,end,strand\n{cells}\n".encode()))
    with pytest.raises(UserError, match=message):
        genomic_benchmarks_task(NAME, tmp_path, intervals=intervals, fasta=genome(tmp_path))


def test_interval_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    fasta = genome(tmp_path)
    given = prepare_intervals(tmp_path / "datasets", "id,chrom,start,end,strand")
    with pytest.raises(UserError, match="there is no column 'region', only 'id', 'chrom'"):
        genomic_benchmarks_task(NAME, tmp_path, intervals=given, fasta=fasta)
    prepare_intervals(given)
    cut = given / NAME / "train" / "negative.csv.gz"
    cut.write_bytes(cut.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"negative.csv.gz is truncated or is not valid gzip"):
        genomic_benchmarks_task(NAME, tmp_path, intervals=given, fasta=fasta)
    with pytest.raises(UserError, match=r"has no toy/{train,test}/CLASS.csv.gz; give the folder"):
        genomic_benchmarks_task(NAME, tmp_path, intervals=tmp_path / "no", fasta=fasta)
    with pytest.raises(
        UserError, match=r"data.fasta=None: intervals are cut from a FASTA; give b"
    ):
        genomic_benchmarks_task(NAME, tmp_path, intervals=given)


def test_names_and_folders_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"data.name=hunam is no task of Genomic Benchmarks; it has"
    ):
        genomic_benchmarks_task("hunam", tmp_path)
    message = (
        r"root=.* has neither the folder toy, nor toy_v0.zip, nor toy.task; get the zip with "
    )
    with pytest.raises(UserError, match=message):
        genomic_benchmarks_task(NAME, tmp_path)
    with pytest.raises(UserError, match=r"data.root=None has neither"):
        genomic_benchmarks_task(NAME, cache_dir=tmp_path)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path / "root")
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert_is_toy(
            genomic_benchmarks_task(NAME, tmp_path / "root", cache_dir=tmp_path / "file" / "c")
        )
    assert "data.cache_dir= names another folder" in caplog.text


def test_the_published_totals_add_up() -> None:
    assert len(GENOMIC_BENCHMARKS) == 9
    eight = [task for task in GENOMIC_BENCHMARKS.values() if task.max_length]
    assert len(eight) == 8 and sum(task.train + task.test for task in eight) == 883_791
    for task in GENOMIC_BENCHMARKS.values():
        assert task.classes == tuple(sorted(task.classes))
        for by_class, total in (
            (task.train_by_class, task.train),
            (task.test_by_class, task.test),
        ):
            assert by_class is None or (
                sum(by_class) == total and len(by_class) == len(task.classes)
            )


def test_what_fetch_brings_is_what_is_read() -> None:
    path = config_dir() / "dataset" / "genomic_benchmarks.yaml"
    files = [RemoteFile(**file) for file in yaml.safe_load(path.read_text())["files"]]
    assert [file.saved_as for file in files] == [f"{name}_v0.zip" for name in GENOMIC_BENCHMARKS]
    for file in files:
        end = f"/records/16605299/files/{file.saved_as}?download=1"
        assert file.at("http://mirror/x").url == f"http://mirror/x{end}"
        assert file.url == f"https://zenodo.org{end}"
