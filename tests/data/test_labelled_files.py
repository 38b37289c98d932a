"""Tasks of plain files: CSV, TSV, FASTA, folders, and every mistake in them."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genodiff.data import ByteTokenizer, ClassificationTask, DnaTokenizer, LabelledSequences
from genodiff.data.labelled_files import labelled_task
from genodiff.errors import UserError

TRAIN = (("ACGT", "10"), ("GG", "9"), ("T", "2"), ("ACGTACGT", "9"))
TEST = (("CC", "2"), ("A", "9"), ("GATTACA", "10"))


def csv(*rows: tuple[str, ...], header: str = "sequence,label", between: str = ",") -> str:
    return "\n".join([header, *(between.join(row) for row in rows)]) + "\n"


def write(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def texts(sequences: LabelledSequences) -> list[str]:
    return [DnaTokenizer().decode(sequences[i]) for i in range(len(sequences))]


def read(tmp_path: Path, train: str, test: str | None = None, **options: Any) -> Any:
    """A task of two CSV files; by default test is train."""
    given = write(tmp_path / "train.csv", train)
    return labelled_task(given, write(tmp_path / "test.csv", test or train), **options)


def test_integers_are_sorted_as_numbers_and_no_split_changes_the_order(tmp_path: Path) -> None:
    task = read(tmp_path, csv(*TRAIN), csv(*TEST))
    assert isinstance(task, ClassificationTask) and task.valid is None
    assert task.classes == ("2", "9", "10") and task.name == "train"
    assert texts(task.train) == [text for text, _ in TRAIN]
    assert task.train.labels.tolist() == [2, 1, 0, 1] and task.test.labels.tolist() == [0, 1, 2]
    backwards = read(tmp_path, csv(*TRAIN[::-1]), csv(*TEST[::-1]))
    assert backwards.classes == task.classes
    assert backwards.test.labels.tolist() == [2, 1, 0]


def test_words_are_sorted_by_their_letters(tmp_path: Path) -> None:
    rows = (("A", "worm"), ("C", "human"), ("G", "10"), ("T", "9"))
    assert read(tmp_path, csv(*rows)).classes == ("10", "9", "human", "worm")


FASTA_BAR = "".join(f">chr1:3-9 some | of it|{label}\n{text}\n" for text, label in TRAIN)
FASTA_WORD = "".join(
    f">name label={label} more\n{text[:3]}\n\n{text[3:]}\n" for text, label in TRAIN
)
FORMS = {
    "a.csv": csv(*TRAIN),
    "b.csv": csv(*((f'"{text}"', label) for text, label in TRAIN), header='"seq","label"'),
    "c.tsv": csv(*TRAIN, header="Sequence\tLabel", between="\t"),
    "d.txt": csv(*((f"id {i}", *row) for i, row in enumerate(TRAIN)), header="name\tseq\tlabel",
                 between="\t"),
    "e.fa": FASTA_BAR,
    "f.fasta": FASTA_WORD,
    "g.fna": FASTA_BAR.replace("\n", "\r\n"),
    "h.csv": "\ufeff" + csv(*TRAIN).replace("\n", "\r\n"),
    "i.csv": csv(*((str(i), *row) for i, row in enumerate(TRAIN)), header=",sequence,label"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FORMS, *(f"{name}.gz" for name in FORMS)])
def test_every_format_says_the_same(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, FORMS[name.removesuffix(".gz")])
    task = labelled_task(path, path)
    assert texts(task.train) == [text for text, _ in TRAIN]
    assert [task.classes[i] for i in task.train.labels] == [label for _, label in TRAIN]
    assert task.source["files"]["test"]["path"] == str(path)


def test_a_cell_of_csv_has_any_length(tmp_path: Path) -> None:
    rows = (("ACGT" * 50_000, "0"), ("A", "1"))
    assert read(tmp_path, csv(*rows)).train.lengths.tolist() == [200_000, 1]
    import csv as module

    assert module.field_size_limit() == 131_072  # as it was


def test_a_folder_is_named_once(tmp_path: Path) -> None:
    tf_0 = folder(tmp_path / "tf_0")
    write(tf_0 / "train.csv.gz", csv(*TRAIN))
    write(tf_0 / "dev.csv", csv(("AAA", "2")))
    write(tf_0 / "test.csv.gz", csv(*TEST))
    task = labelled_task(tf_0)
    assert task.name == "tf_0" and len(task.train) == 4 and len(task.test) == 3
    assert task.valid is not None and texts(task.valid) == ["AAA"]
    assert task.valid.labels.tolist() == [0]
    other = write(tmp_path / "other.csv", csv(*TRAIN, *TEST))
    assert len(labelled_task(tf_0, other, name="mine").test) == 7


def test_either_case_is_read_and_what_becomes_unknown_is_counted(tmp_path: Path) -> None:
    task = read(tmp_path, csv(("acgtnACGTN", "0"), ("RyAkm", "1"), ("A", "0"), ("BB", "1")))
    unknown = "[UNK]"
    assert texts(task.train) == ["ACGTN" * 2, f"{unknown * 2}A{unknown * 2}", "A", unknown * 2]
    assert task.train.lengths.tolist() == [10, 5, 1, 2]
    assert task.source["unknown"] == {"letters": 12, "sequences": 4}  # of both splits


GLUE = {
    "index\tsentence\tlabel": ['0\tThe "film", it\'s\t1', '1\tbad ünd "\t0'],
    "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String": ["1\t7\t8\tone\ttwo", "0\t9\t8\tone\tthree"],
    "index\tquestion\tsentence\tlabel": ["0\twho?\tme\tentailment", "1\twhy?\tno\tnot"],
    "id\tsentence1\tlabel1\tsentence2\tgold_label": ["4\ta b\tx\tc\tneutral", "5\ta\tx\tb\tyes"],
    "qid1\tquestion1\tquestion2\tis_duplicate": ["0\thow\twhat\t1", "0\thow\tthat\t0"],
}
GLUE_TEXTS = {
    "index\tsentence\tlabel": ['The "film", it\'s', 'bad ünd "'],
    "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String": ["one\ntwo", "one\nthree"],
    "index\tquestion\tsentence\tlabel": ["who?\nme", "why?\nno"],
    "id\tsentence1\tlabel1\tsentence2\tgold_label": ["a b\nc", "a\nb"],
    "qid1\tquestion1\tquestion2\tis_duplicate": ["how\nwhat", "how\nthat"],
}


@pytest.mark.parametrize("header", GLUE)
def test_the_tables_of_glue_are_read_and_pairs_are_kept_apart(header: str, tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", "\n".join([header, *GLUE[header]]))
    task = labelled_task(path, path, tokenizer=ByteTokenizer())
    read = [task.tokenizer.decode(task.train[i]) for i in range(2)]
    assert read == GLUE_TEXTS[header] and len(task.classes) == 2
    assert "unknown" not in task.source


def test_a_pair_of_dna_is_kept_apart_by_the_token_for_an_end(tmp_path: Path) -> None:
    rows = (("AC", "GT", "0"), ("T", "N", "1"))
    task = read(tmp_path, csv(*rows, header="Enhancer,promoter,y"),
                columns=["enhancer", "Promoter"], label="y")  # fmt: skip
    assert texts(task.train) == ["AC[SEP]GT", "T[SEP]N"]
    assert task.train.ids.dtype == np.uint8


GOOD = csv(("A", "0"), ("C", "1"))
BAD_TRAIN = {
    "an empty file": ("", "train.csv is empty; give a header and rows"),
    "no rows": (csv(), "train.csv has no rows; train needs labelled sequences"),
    "other columns": (
        "dna,label\nA,0\n",
        r"line 1: there is no column of the sequence \(sequence, seq, .*only 'dna', 'label'; .*"
        r"Another name is given with data.columns=\[NAME\]",
    ),
    "no label": ("seq,name\nA,0\n", "no column of the label .*gold_label.*data.label=NAME"),
    "no header": ("ACGT,0\nGGG,1\n", "only 'acgt', '0'; a header has to name the columns"),
    "an empty sequence": (csv(("A", "0"), ("", "1")), "line 3: the sequence is empty"),
    "white space": (csv(("A", "0"), ("  ", "1")), "line 3: the sequence is empty"),
    "an empty label": (csv(("A", "0"), ("C", " ")), "line 3: the label is empty"),
    "a gap": (csv(("A", "0"), ("AC-T", "1")), "line 3: '-' at letter 3 of the sequence is not an"),
    "a digit": (csv(("A", "0"), ("1C", "1")), "line 3: '1' at letter 1 of the sequence"),
    "a space": (csv(("A C", "0")), "line 2: ' ' at letter 2 of the sequence is not an IUPAC"),
    "RNA": (csv(("ACU", "0")), "line 2: 'U' at letter 3"),
    "other letters": (csv(("A\u017f", "0")), "line 2: '\u017f' at letter 2"),
    "a row too short": (csv(("A",)), "line 2: columns in the row: 1, in the header: 2"),
    "a row too long": (csv(("A", "0", "x")), "line 2: columns in the row: 3, in the header: 2"),
    "commas only": (csv(("A", "0"), ("", "")), "line 3: the label is empty"),
    "an open quote": (csv(("A", "0"), ('"C', "1")), "line 3: this is not CSV"),
    "other bytes": (csv(("A", "0")).encode() + b"C\xff,1\n", "line 3: byte 0xff is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", BAD_TRAIN)
def test_a_mistake_is_one_line_with_its_place(mistake: str, tmp_path: Path) -> None:
    content, message = BAD_TRAIN[mistake]
    train, test = write(tmp_path / "train.csv", content), write(tmp_path / "test.csv", GOOD)
    with pytest.raises(UserError, match=message) as refusal:
        labelled_task(train, test)
    assert "\n" not in str(refusal.value) and str(train) in str(refusal.value)


def test_labels_that_train_does_not_have_are_refused_with_their_line(tmp_path: Path) -> None:
    message = (
        "test.csv, line 4: label '2' of test is not in train .*train.csv.*, which has '0', '1'"
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path, GOOD, csv(("A", "0"), ("C", "1"), ("G", "2")))
    valid = write(tmp_path / "dev.csv", csv(("A", "x")))
    with pytest.raises(UserError, match=r"dev\.csv, line 2: label 'x' of valid is not in train"):
        read(tmp_path, GOOD, GOOD, valid=valid)


def test_a_class_without_a_test_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"test\.csv has no sequence of class '1', which train has"
    ):
        read(tmp_path, GOOD, csv(("A", "0")))
    many = csv(*(("A", f"c{i}") for i in range(9)))
    with pytest.raises(UserError, match=r"of class 'c1', 'c2', 'c3', 'c4', 'c5', \.\.\., which"):
        read(tmp_path, many, csv(("A", "c0")))


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.csv has one class, '0'; a classifier needs two"):
        read(tmp_path, csv(("A", "0"), ("C", "0")))


def test_fasta_without_labels_or_header_is_refused(tmp_path: Path) -> None:
    for text, message in {
        ">a 3\nACGT\n": "record of line 1: the header 'a 3' has no label; write it last behind",
        ">a|0\nAC\n>b|\nA\n": "record of line 3: the header 'b|' has no label",
        "\nACGT\n": "line 2: FASTA begins with '>', not 'ACGT'",
        ">a|0\n>b|1\nA\n": "record of line 1: the sequence is empty",
        ">a|0\nAC\nA C\n": "record of line 1: ' ' at letter 4",
    }.items():
        path = write(tmp_path / "a.fa", text)
        with pytest.raises(UserError, match=re.escape(message)):
            labelled_task(path, path)


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(csv(*TRAIN * 100).encode())
    for cut in (len(whole) // 2, len(whole) - 4, 12):
        path = tmp_path / "train.csv.gz"
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"train.csv.gz is truncated or is not valid gzip"):
            labelled_task(path, path)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


Prepare = Callable[[Path], tuple[Path, Path | None]]
WRONG_PATHS: dict[str, tuple[Prepare, str]] = {
    "missing": (lambda at: (at / "no.csv", at / "no.csv"), "no.csv cannot be read .No such file"),
    "folder as file": (
        lambda at: (write(at / "a.csv", GOOD), folder(at / "b.csv")),
        "b.csv cannot be read .Is a directory.; give the path of a CSV",
    ),
    "folder as test": (lambda at: (write(at / "a.csv", GOOD), at / "."), "names no format"),
    "no test": (lambda at: (write(at / "a.csv", GOOD), None), "data.test= is needed beside data"),
    "empty folder": (lambda at: (at, None), "has no file for train, such as train.csv or"),
    "no test in it": (
        lambda at: (write(at / "train.csv", GOOD).parent, None),
        "has no file for test, such as test.csv or test.csv.gz; give data.test=FILE",
    ),
    "suffix": (
        lambda at: (write(at / "a.xlsx", ""), at),
        r"the suffix '.xlsx' names no format; use one of .csv, .tsv, .txt, .jsonl, .parquet, .fa,",
    ),
}


@pytest.mark.parametrize("mistake", WRONG_PATHS)
def test_paths_that_lead_nowhere_are_refused(mistake: str, tmp_path: Path) -> None:
    prepare, message = WRONG_PATHS[mistake]
    with pytest.raises(UserError, match=message):
        labelled_task(*prepare(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", GOOD)
    path.chmod(0)
    with pytest.raises(UserError, match=r"a\.csv cannot be read .Permission denied"):
        labelled_task(path, path)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no column 'dna', only 'sequence', 'label'"):
        read(tmp_path, GOOD, columns=["dna"])
    with pytest.raises(UserError, match="there is no column 'y', only 'sequence', 'label'"):
        read(tmp_path, GOOD, label="y")
