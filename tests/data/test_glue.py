"""GLUE: the official folders and copies of the Hub's files give the same tasks; every mistake."""

import gzip
import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genodiff.data import ByteTokenizer, ClassificationTask, DnaTokenizer
from genodiff.data.glue import GLUE, glue_task
from genodiff.data.labelled import texts_of
from genodiff.errors import OutsideError, UserError
from tests.data.tiny_vocabularies import bert_folder

# Headers of the official archive; {a} and {b} are the texts, {label} the label.
_MNLI = "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tlabel1"
OFFICIAL: Mapping[str, tuple[str | None, str, str]] = {
    "cola": (None, "gj04\t{label}\t*\t{a}", "01"),
    "sst2": ("sentence\tlabel", "{a} \t{label}", "01"),
    "mrpc": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{label}\t7\t8\t{a}\t{b}", "01"),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "3\t4\t5\t{a}\t{b}\t{label}", "01",
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain\tf\t2012\t1\tnone\tnone\t{a}\t{b}\t{label}",
        "",
    ),
    "mnli": (f"{_MNLI}\tgold_label", "0\t1\t2\tg\tx\tx\tx\tx\t{a}\t{b}\t-\t{label}", ""),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\t{a}\t{b}\t{label}", ""),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\t{a}\t{b}\t{label}", ""),
}  # fmt: skip
TEXTS = [
    ('The "cat" sat', "it's a mat"),
    ("A café?", "Yes!"),
    ("e-mail, don't", '"12'),
    ("cats", "the other cat"),
    ("they sat", "sitting"),
    ("cat and cats", "then"),
]
Road = Any


def labels(name: str, n: int) -> list[int] | list[float]:
    """Every class in each split; numbers with two digits."""
    classes = len(GLUE[name].classes)
    return [i % classes for i in range(n)] if classes else [0.5 + 0.75 * i for i in range(n)]


def splits(name: str) -> dict[str, list[tuple[str, str, Any]]]:
    """Rows of the splits, by the Hub's names."""
    parts = ("_matched", "_mismatched") if name == "mnli" else ("",)
    names = ("train", *(f"validation{part}" for part in parts))
    return {
        split: [
            (f"{a} {split}", b, label)
            for (a, b), label in zip(TEXTS, labels(name, len(TEXTS)), strict=True)
        ]
        for split in names
    }


def official(root: Path, name: str) -> None:
    header, form, digits = OFFICIAL[name]
    folder = root / GLUE[name].folder
    folder.mkdir()
    for split, rows in splits(name).items():
        words = GLUE[name].classes
        lines = [] if header is None else [header]
        for a, b, label in rows:
            word = label if digits or not words else words[label]
            lines.append(form.format(a=a, b=b, label=word))
        path = folder / f"{split.replace('validation', 'dev')}.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def records(name: str, rows: Sequence[tuple[str, str, Any]]) -> list[dict[str, Any]]:
    columns = GLUE[name].hub_columns
    return [
        {**dict(zip(columns, texts, strict=False)), "label": label, "idx": i}
        for i, (*texts, label) in enumerate(rows)
    ]


def parquet(root: Path, name: str) -> None:
    import pyarrow
    from pyarrow import parquet as files

    (root / name).mkdir()
    for split, rows in splits(name).items():
        table = pyarrow.Table.from_pylist(records(name, rows))
        if not GLUE[name].classes:
            numbers = table["label"].cast(pyarrow.float32())
            table = table.set_column(table.column_names.index("label"), "label", numbers)
        files.write_table(table, root / name / f"{split}-00000-of-00001.parquet")


def lines(root: Path, name: str) -> None:
    (root / name).mkdir()
    for split, rows in splits(name).items():
        text = "".join(json.dumps(row) + "\n" for row in records(name, rows))
        (root / name / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def read(name: str, root: Path | None, **options: Any) -> ClassificationTask:
    given: dict[str, Any] = {"tokenizer": ByteTokenizer(), "check_counts": False, **options}
    return glue_task(name, root, **given)


def contents(task: ClassificationTask) -> Any:
    """Texts and labels of train and test."""
    return [
        ([task.tokenizer.decode(part[i]) for i in range(len(part))], part.labels.tolist())
        for part in (task.train, task.test)
    ]


@pytest.mark.parametrize("name", GLUE)
def test_every_road_leads_to_the_same_task(name: str, tmp_path: Path) -> None:
    found = []
    for road in (official, parquet, lines):
        root = tmp_path / road.__name__
        root.mkdir()
        road(root, name)
        found.append(read(name, root))
    (train, train_labels), (test, test_labels) = contents(found[0])
    n_texts = len(GLUE[name].columns)
    strip = str.rstrip if name == "sst2" else str  # the official file has a space at each end
    for task in found[1:]:
        (other_train, other_labels), (other_test, other_test_labels) = contents(task)
        assert [*map(strip, train)] == other_train and [*map(strip, test)] == other_test
        assert train_labels == pytest.approx(other_labels, abs=1e-12)
        assert test_labels == pytest.approx(other_test_labels, abs=1e-12)
        assert task.classes == GLUE[name].classes and task.metrics == GLUE[name].metrics
    assert train[0].split("\n") == [f"{TEXTS[0][0]} train", TEXTS[0][1]][:n_texts] or n_texts == 1
    assert train_labels == pytest.approx(labels(name, len(TEXTS)))
    assert found[0].valid is None
    if name == "mnli":
        assert found[0].test_parts == (("matched", 6), ("mismatched", 6))
        assert "validation_mismatched" in test[6]


def test_the_classes_are_numbered_as_on_the_hub() -> None:
    assert GLUE["mnli"].classes == ("entailment", "neutral", "contradiction")
    assert GLUE["mrpc"].classes[1] == "equivalent"  # the class of F1
    # Wang et al. 2019, table 1, in thousands
    assert [round(task.train / 1000) for task in GLUE.values()] == [9, 67, 4, 364, 6, 393, 105, 2]


def test_words_are_read_by_a_tokenizer_of_their_own_and_kept_by_it(tmp_path: Path) -> None:
    official(tmp_path, "rte")
    bert = bert_folder(tmp_path / "bert")
    task = read("rte", tmp_path, tokenizer=str(bert))
    first = [task.tokenizer.decode(ids) for ids in texts_of(task.train[0], task.tokenizer)]
    assert len(first) == 2 and first[1] == "it ' s a mat"
    assert len([*tmp_path.glob("glue_rte.*.task")]) == 1
    read("rte", tmp_path)  # as bytes
    assert len([*tmp_path.glob("glue_rte.*.task")]) == 2
    (tmp_path / "RTE" / "train.tsv").rename(tmp_path / "away")
    with pytest.raises(UserError, match="as of the official archive, nor train in rte/"):
        read("rte", tmp_path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    official(tmp_path, "rte")
    assert len(read("rte", tmp_path).train) == 6
    path = tmp_path / "RTE" / "train.tsv"
    path.write_text(path.read_text() + "9\tone more\tpair\tentailment\n")
    assert len(read("rte", tmp_path).train) == 7


def test_cut_rows_of_qqp_are_left_out_and_of_others_refused(tmp_path: Path) -> None:
    for name in ("qqp", "rte"):
        official(tmp_path, name)
        path = tmp_path / GLUE[name].folder / "train.tsv"
        path.write_text(path.read_text() + "cut\n")
    assert len(read("qqp", tmp_path).train) == 6
    with pytest.raises(UserError, match="line 8: columns in the row: 1, in the header: 4"):
        read("rte", tmp_path)


def test_the_hub_is_read_by_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(repository: str, name: str, *, split: str) -> dict[str, list[Any]]:
        asked.append((repository, name, split))
        if repository == "none/such":
            raise FileNotFoundError("no such\nrepository")
        rows = records(name, splits(name)[split])
        # as the package gives a float32
        return {
            key: [float(np.float32(v)) if isinstance(v, float) else v for v in column]
            for key, column in ((key, [row[key] for row in rows]) for key in rows[0])
        }

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)  # type: ignore[arg-type]
    for name in ("mnli", "stsb"):
        root = tmp_path / name
        root.mkdir()
        official(root, name)
        there = read(name, None, hub="nyu-mll/glue", cache_dir=tmp_path)
        here = read(name, root)
        assert contents(there) == contents(here)
    assert asked[:3] == [
        ("nyu-mll/glue", "mnli", split)
        for split in ("train", "validation_matched", "validation_mismatched")
    ]
    with pytest.raises(OutsideError, match=r"train of rte of none/such could not be read") as told:
        read("rte", None, hub="none/such", cache_dir=tmp_path)
    assert "\n" not in str(told.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets; run pip install"):
        read("rte", None, hub="other/glue", cache_dir=tmp_path)


def hidden(root: Path) -> None:
    lines(root, "rte")
    row = {"sentence1": "a", "sentence2": "b", "label": -1, "idx": 0}
    (root / "rte" / "validation.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))


def no_columns(root: Path) -> None:
    (root / "RTE").mkdir()
    for split in ("train", "dev"):
        (root / "RTE" / f"{split}.tsv").write_text("index\ttext\tlabel\n0\ta\tentailment\n")


def no_dev(root: Path) -> None:
    official(root, "rte")
    (root / "RTE" / "dev.tsv").unlink()


def other_class(root: Path) -> None:
    official(root, "rte")
    for split in ("train", "dev"):
        path = root / "RTE" / f"{split}.tsv"
        path.write_text(path.read_text().replace("not_entailment", "neutral"))


def no_number(root: Path) -> None:
    official(root, "stsb")
    path = root / "STS-B" / "dev.tsv"
    path.write_text(path.read_text().replace("\t0.5\n", "\tlow\n"))


MISTAKES: dict[str, tuple[Road, str, dict[str, Any], str]] = {
    "name": (None, "wnli", {}, "data.name=wnli is no task of GLUE; it has cola, sst2, mrpc"),
    "no root": (None, "rte", {"root": None}, "data=glue needs data.root=, the folder of the data"),
    "no data": (None, "rte", {}, r"has neither RTE/train.tsv, .* nor train in rte/ as parquet"),
    "no tokenizer": (None, "rte", {"tokenizer": None}, "needs data.tokenizer="),
    "DNA": (None, "rte", {"tokenizer": DnaTokenizer()}, "GLUE is text, and DnaTo"),
    "hidden": (hidden, "rte", {}, "line 1: label -1 is how GLUE hides the labels"),
    "columns": (no_columns, "rte", {}, "no column 'sentence1', only 'index', 'text', 'label'"),
    "no dev": (no_dev, "rte", {}, "dev.tsv cannot be read .* unpack the whole archive"),
    "class": (other_class, "rte", {}, r"'neutral', and they are to be .* correct 'neutral', 'not"),
    "number": (no_number, "stsb", {}, "line 2: label 'low' is no number"),
    "counts": (
        lambda root: official(root, "mnli"), "mnli", {"check_counts": True},
        "mnli: the examples of train are 6, and 392,702 are published; get the data again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path) -> None:
    make, name, options, message = MISTAKES[mistake]
    if make is not None:
        make(tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        read(name, options.pop("root", tmp_path), **options)
    assert "\n" not in str(refusal.value)
