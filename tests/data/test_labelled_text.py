"""Labelled text: rows of one text and of pairs as transformers makes them, numbers as labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genodiff.data import (
    ByteTokenizer,
    ClassificationTask,
    LabelledSequences,
    LabelledWindows,
    SubwordTokenizer,
    load_tokenizer,
)
from genodiff.data.labelled import longest_first, texts_of
from genodiff.data.labelled_files import labelled_task
from genodiff.data.labelled_rows import TextRow, encode_row, encode_rows
from genodiff.data.labelled_store import read_task, write_task
from genodiff.errors import UserError
from tests.data.tiny_vocabularies import bert_folder, gpt2_folder

PAIRS = (
    ("the cat sat", "a dog"),
    ("a", "the dog sat on the cat, and the cat sat on the dog."),
    ("the dog sat on the cat, and the cat sat", "the dog"),
    ("cats", "dogs"),
    ("the cat sat on the dog.", "the dog sat on the cat."),
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def tokenizer(bert: Path) -> Any:
    return load_tokenizer(str(bert))


def rows(texts: list[tuple[str, ...]], tokenizer: Any, length: int) -> list[list[int]]:
    ids = [row.ids for row in encode_rows((TextRow("", t, "") for t in texts), tokenizer)]
    windows = LabelledWindows(LabelledSequences.of(ids, list(range(len(ids)))), tokenizer, length)
    batch = windows.collate(windows.__getitems__(np.array([[0, i] for i in range(len(ids))])))
    assert batch.labels is not None and batch.labels.tolist() == list(range(len(ids)))
    return batch.tokens.tolist()


@pytest.mark.parametrize("n_texts", [1, 2])
def test_rows_are_those_of_transformers_at_every_length(
    bert: Path, tokenizer: SubwordTokenizer, n_texts: int
) -> None:
    from transformers import BertTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]: lazy

    theirs = BertTokenizerFast.from_pretrained(bert)
    texts = [pair[:n_texts] for pair in PAIRS]
    longest = max(len(ids) for ids in rows(texts, tokenizer, 60))
    lengths = range(1 + 2 * n_texts, longest + 2)
    assert len(lengths) > 20
    for length in lengths:
        expected = [
            theirs(*t, truncation="longest_first", padding="max_length", max_length=length)
            for t in texts
        ]
        assert rows(texts, tokenizer, length) == [found["input_ids"] for found in expected]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(0, 30))
def test_the_longest_text_loses_first(lengths: list[int], room: int) -> None:
    kept = longest_first(lengths, room)
    assert sum(kept) == min(sum(lengths), room)
    assert all(0 <= k <= n for k, n in zip(kept, lengths, strict=True))
    cut = [k for k, n in zip(kept, lengths, strict=True) if k < n]
    assert not cut or max(kept) - min(cut) <= 1


def test_a_pair_of_gpt2_is_told_apart_by_its_only_special_token(tmp_path: Path) -> None:
    tokenizer: Any = load_tokenizer(str(gpt2_folder(tmp_path / "gpt2")))
    (row,) = rows([("the cat", "a dog")], tokenizer, 40)
    end = tokenizer.eos_id
    a, b = tokenizer.encode("the cat").tolist(), tokenizer.encode("a dog").tolist()
    used = [end, *a, end, *b, end]
    assert tokenizer.bos_id == end and tokenizer.pad_id != end
    assert row == used + [tokenizer.pad_id] * (40 - len(used))


def test_bytes_have_no_frame_and_are_cut_on_the_right() -> None:
    tokenizer = ByteTokenizer()
    assert rows([("abc", "de")], tokenizer, 5) == [[*b"abc\nd"]]
    assert rows([("abc",)], tokenizer, 5) == [[*b"abc", 257, 257]]


def test_texts_come_back_apart(tokenizer: SubwordTokenizer) -> None:
    ids = encode_row(PAIRS[0], tokenizer, "")
    assert [tokenizer.decode(each) for each in texts_of(ids, tokenizer)] == list(PAIRS[0])
    assert len(texts_of(encode_row(["the cat"], tokenizer, ""), tokenizer)) == 1


def test_names_of_special_tokens_do_not_part_a_text(tokenizer: SubwordTokenizer) -> None:
    ids = encode_row(["the [SEP] cat"], tokenizer, "")
    assert tokenizer.eos_id not in ids.tolist()


def test_one_text_of_a_pair_may_be_empty_but_not_both(tokenizer: SubwordTokenizer) -> None:
    (row,) = rows([("the cat", "")], tokenizer, 8)
    the_cat = tokenizer.encode("the cat").tolist()
    assert row[: len(the_cat) + 3] == [
        tokenizer.bos_id, *the_cat, tokenizer.eos_id, tokenizer.eos_id,
    ]  # fmt: skip
    with pytest.raises(UserError, match="line 7: the sequence is empty"):
        encode_row(["", " "], tokenizer, "line 7")


def test_more_rows_than_are_encoded_at_once_keep_their_order(tokenizer: SubwordTokenizer) -> None:
    words = ["cat", "dog", "sat"]
    texts = [words[i % 3] for i in range(9000)]
    found = list(encode_rows((TextRow("", [t], t) for t in texts), tokenizer))
    assert [row.label for row in found] == texts
    assert all(tokenizer.decode(row.ids) == row.label for row in found[4090:4110])
    assert found[0].ids.dtype in (np.uint8, np.int32)


def test_a_row_has_room_for_its_frame(tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(
        UserError, match="length=4 has no room for 2 texts and the 3 tokens around"
    ):
        rows([PAIRS[0]], tokenizer, 4)
    with pytest.raises(UserError, match="length=2 has no room for 1 texts and the 2 tokens"):
        rows([("the cat",)], tokenizer, 2)
    sequences = LabelledSequences.of([tokenizer.encode("cat")], [0])
    with pytest.raises(UserError, match="append_sep=true: rows of SubwordTokenizer end so"):
        LabelledWindows(sequences, tokenizer, 9, append_sep=True)


def test_what_is_cut_is_counted_with_the_frame(tokenizer: SubwordTokenizer) -> None:
    sequences = LabelledSequences.of([np.full(n, 9) for n in (6, 7, 8)], [0, 1, 1])
    found = LabelledWindows(sequences, tokenizer, 9).describe()
    assert found == {"sequences": 3, "of_each_class": [1, 2], "cut": 1}


# Files


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same table in the format of the suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        cells = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
        path.write_text("".join("\t".join(row) + "\n" for row in cells))
    return path


ROWS: list[dict[str, Any]] = [
    {"idx": i, "sentence1": a, "sentence2": b, "label": ("no", "yes")[i % 2]}
    for i, (a, b) in enumerate(PAIRS)
]
NUMBERS = [{**row, "label": i * 0.6} for i, row in enumerate(ROWS)]


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".parquet"])
def test_every_table_of_text_says_the_same(bert: Path, tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", ROWS)
    task = labelled_task(path, path, tokenizer=str(bert))
    assert isinstance(task, ClassificationTask) and task.classes == ("no", "yes")
    assert task.metrics == ("accuracy",)
    parts = [texts_of(task.train[i], task.tokenizer) for i in range(len(PAIRS))]
    assert [tuple(map(task.tokenizer.decode, part)) for part in parts] == list(PAIRS)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_label_that_is_missing_is_no_class(bert: Path, tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [*NUMBERS, {**NUMBERS[0], "label": None}])
    with pytest.raises(UserError, match="the label is empty; give one, or remove the row"):
        labelled_task(path, path, tokenizer=str(bert))


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".parquet"])
def test_labels_may_be_numbers(bert: Path, tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", NUMBERS)
    task = labelled_task(path, path, tokenizer=str(bert), target="regression")
    assert task.classes == () and task.metrics == ("pearson", "spearman")
    assert task.train.labels.tolist() == pytest.approx([0, 0.6, 1.2, 1.8, 2.4], rel=1e-12)
    windows = LabelledWindows(task.train, task.tokenizer, 12)
    batch = windows.collate(windows.__getitems__(np.array([[0, 3], [0, 1]])))
    assert batch.labels is not None and batch.labels.tolist() == pytest.approx([1.8, 0.6])
    assert "of_each_class" not in windows.describe()
    assert task.train.take(np.array([4, 0])).labels.tolist() == pytest.approx([2.4, 0])


MISTAKES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "columns": (
        [{"text1": "a", "text2": "b", "label": 0}],
        {},
        r"no column of the sequence .* only 'text1', 'text2', 'label'",
    ),
    "no number": (
        [NUMBERS[0], {**NUMBERS[1], "label": "high"}],
        {"target": "regression"},
        "line 3: label 'high' is no number, and target=regression tells numbers",
    ),
    "not a number": (
        [NUMBERS[0], {**NUMBERS[1], "label": "nan"}],
        {"target": "regression"},
        "line 3: label 'nan' is no number",
    ),
    "one number": (
        [NUMBERS[0], NUMBERS[0]],
        {"target": "regression"},
        "has one label, 0; a regression needs two or more",
    ),
    "metric of classes": (
        NUMBERS, {"target": "regression", "metrics": ["f1"]},
        "metric f1 is not for numbers; use pearson, spearman",
    ),
    "metric of numbers": (
        ROWS, {"metrics": ["pearson"]}, "metric pearson is not for 2 classes; use accuracy, f1",
    ),
    "metric of two classes": (
        [*ROWS[:2], {**ROWS[2], "label": "maybe"}], {"metrics": ["f1"]},
        "metric f1 is not for 3 classes; use accuracy, matthews",
    ),
    "no text": ([ROWS[0], {**ROWS[1], "sentence1": " ", "sentence2": ""}], {}, "line 3: the seq"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(bert: Path, tmp_path: Path, mistake: str) -> None:
    found, options, message = MISTAKES[mistake]
    path = write(tmp_path / "a.tsv", found)
    with pytest.raises(UserError, match=message) as refusal:
        labelled_task(path, path, **{"tokenizer": str(bert), **options})
    assert "\n" not in str(refusal.value)


def test_hidden_labels_are_known_for_what_they_are(tmp_path: Path) -> None:
    train = write(tmp_path / "train.tsv", [{**ROWS[i], "label": i % 2} for i in range(4)])
    test = write(tmp_path / "test.tsv", [{**row, "label": -1} for row in ROWS])
    with pytest.raises(UserError, match=r"label '-1' of test is not in train .* hides the labels"):
        labelled_task(train, test, tokenizer=ByteTokenizer())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n', "line 2: every line is an obj"),
        ("a.jsonl", '{"text": "a"\n', r"line 1: this is not JSON"),
        ("a.jsonl", "[1]\n", "line 1: every line is an object with the same keys"),
        ("a.jsonl", "", "a.jsonl is empty"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
    ],
)
def test_damaged_tables_are_one_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        labelled_task(path, path, tokenizer=ByteTokenizer())
    assert "\n" not in str(refusal.value)


def test_a_kept_task_is_of_its_tokenizer(bert: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", NUMBERS)
    task = labelled_task(path, path, tokenizer=str(bert), target="regression")
    task = task._replace(test_parts=(("one", 2), ("two", 3)))
    write_task(tmp_path / "a.task", task, {})
    back, _ = read_task(tmp_path / "a.task", task.tokenizer)
    assert (back.metrics, back.test_parts) == (task.metrics, task.test_parts)
    assert back.train.labels.tolist() == task.train.labels.tolist()
    cased: Any = load_tokenizer(str(bert_folder(tmp_path / "cased", do_lower_case=False)))
    with pytest.raises(UserError, match=r"a\.task has the ids of another tokenizer"):
        read_task(tmp_path / "a.task", cased)
