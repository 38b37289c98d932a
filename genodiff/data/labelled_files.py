"""Labelled sequences from plain files: tables with a header (`labelled_tables`), and FASTA, also
as gzip, with the label in each header.

The format goes by the suffix. In FASTA the label is what stands behind the last `|` of the header,
or `label=...` anywhere in it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from genodiff.data.datamodule import Tokenizer
from genodiff.data.genome import file_sha256
from genodiff.data.intervals import SPLITS, Split
from genodiff.data.labelled import ClassificationTask, MetricName
from genodiff.data.labelled_rows import TextRow, encode_rows, task_of
from genodiff.data.labelled_tables import TABLES, Table, read_table, read_text, suffix_of
from genodiff.data.text_tokenizers import load_tokenizer
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.errors import UserError

FASTAS = (".fa", ".fasta", ".fna")
"""The suffixes that name a FASTA."""
_FILE_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("dev", "valid", "val"),
    "test": ("test",),
}
# What sequences and labels are called: GUE and Nucleotide Transformer, then the tasks of GLUE.
# Several names together are several texts of one row.
_TEXTS = (
    *(("sequence",), ("seq",)),
    *(("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence")),
    *(("premise", "hypothesis"), ("#1 string", "#2 string"), ("sentence",), ("text",)),
)
_LABELS = ("label", "gold_label", "is_duplicate", "quality", "score")
_LABEL_IN_HEADER = re.compile(r"(?:^|[\s|;,])label=([^\s|;,]+)")


def labelled_task(
    train: str | Path,
    test: str | Path | None = None,
    valid: str | Path | None = None,
    *,
    name: str | None = None,
    tokenizer: str | Tokenizer | None = None,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    target: Literal["classification", "regression"] = "classification",
    metrics: Sequence[MetricName] | None = None,
) -> ClassificationTask:
    """A task of plain files, DNA unless a `tokenizer` says otherwise.

    Args:
        train: a table (CSV, TSV, JSON lines, parquet) or FASTA, or a folder with one file of each
            split, called train, dev (or valid) and test.
        test: needed unless `train` is a folder with one.
        valid: if the task has validation data of its own.
        name: by default that of the folder, or of train's file.
        tokenizer: of text, or what `load_tokenizer` loads it by: a name or a folder.
        columns: of a table, those of the sequence; several texts are one row's, as `encode_rows`
            joins them. By default the usual names, such as sequence, seq, or sentence1 and
            sentence2; capitals do not matter.
        label: the column of the label; by default it is called label, gold_label, is_duplicate,
            quality or score.
        target: what labels are: names of classes, or numbers.
        metrics: what the task is scored by, the most important first; by default accuracy or, of
            numbers, both correlations.

    Raises:
        UserError: for what cannot be read, and for what `encode_rows` and `task_of` refuse.
    """
    train = Path(train)
    is_folder = train.is_dir()
    given = {"train": None if is_folder else train, "valid": valid, "test": test}
    paths: dict[Split, Path] = {}
    for split in SPLITS:
        path = given[split]
        if path is None and is_folder:
            path = _find(train, split)
        if path is not None:
            paths[split] = Path(path)
        elif split != "valid":
            raise UserError(_missing(train, split))
    known = DnaTokenizer() if tokenizer is None else tokenizer_of(tokenizer)
    return task_of(
        name or (train if is_folder else paths["train"]).name.partition(".")[0],
        {
            split: [*encode_rows(_rows(path, columns, label), known)]
            for split, path in paths.items()
        },
        known,
        {split: str(path) for split, path in paths.items()},
        {
            "files": {
                split: {"path": str(path), "sha256": file_sha256(path)}
                for split, path in paths.items()
            }
        },
        metrics=metrics,
        regression=target == "regression",
    )


def tokenizer_of(given: str | Tokenizer) -> Tokenizer:
    """A tokenizer, loaded if it is a name. Raises UserError as `load_tokenizer`."""
    return load_tokenizer(given) if isinstance(given, str) else given


def table_rows(table: Table, columns: Sequence[str], label: str) -> Iterator[TextRow]:
    """The texts in these columns of each row, and its label. Raises UserError for a column that
    is not there, and, when it comes to it, for a row without a label."""
    texts, (label_at,) = table.place(columns), table.place([label])
    for line, cells in table.rows:
        where, word = f"{table.path}, line {line}", cells[label_at].strip()
        if not word:
            raise UserError(f"{where}: the label is empty; give one, or remove the row.")
        yield TextRow(where, [cells[i] for i in texts], word)


def _rows(path: Path, columns: Sequence[str] | None, label: str | None) -> Iterator[TextRow]:
    suffix = suffix_of(path)
    if suffix in FASTAS:
        return _fasta_rows(path)
    if suffix not in TABLES:
        raise UserError(
            f"{path}: the suffix {suffix!r} names no format; use one of "
            f"{', '.join((*TABLES, *FASTAS))}, with or without .gz."
        )
    table = read_table(path)
    columns = columns or sequence_columns(table, "data.columns=[NAME]")
    label = label or _usual(table, [(name,) for name in _LABELS], "label", "data.label=NAME")[0]
    return table_rows(table, columns, label)


def sequence_columns(table: Table, key: str) -> tuple[str, ...]:
    """The columns of the sequence, by the usual names. Raises UserError where there are none,
    which tells of the `key` that names others."""
    return _usual(table, _TEXTS, "sequence", key)


def _usual(
    table: Table, choices: Sequence[tuple[str, ...]], what: str, key: str
) -> tuple[str, ...]:
    """The first of several choices of columns that a table has."""
    for names in choices:
        if all(name in table.header for name in names):
            return names
    called = ", ".join(" and ".join(names) for names in choices)
    raise UserError(
        f"{table.heading}: there is no column of the {what} ({called}), {table.has()} "
        f"Another name is given with {key}."
    )


def _fasta_rows(path: Path) -> Iterator[TextRow]:
    where, header, pieces = "", None, []
    for line, text in enumerate([*read_text(path).split("\n"), ">"], start=1):
        if not text.startswith(">"):
            if header is None and text.strip():
                raise UserError(f"{path}, line {line}: FASTA begins with '>', not {text[:20]!r}.")
            pieces.append(text.strip())
            continue
        if header is not None:
            yield TextRow(where, ["".join(pieces)], _label_in(header, where))
        where, header, pieces = f"{path}, record of line {line}", text[1:].strip(), []


def _label_in(header: str, where: str) -> str:
    marked = _LABEL_IN_HEADER.search(header)
    label = marked[1] if marked else header.rpartition("|")[2].strip() if "|" in header else ""
    if not label:
        raise UserError(
            f"{where}: the header {header[:60]!r} has no label; write it last behind '|', or as "
            "label=..."
        )
    return label


def _find(folder: Path, split: Split) -> Path | None:
    for name in _FILE_NAMES[split]:
        for suffix in (*TABLES, *FASTAS):
            for path in (folder / f"{name}{suffix}", folder / f"{name}{suffix}.gz"):
                if path.is_file():
                    return path
    return None


def _missing(train: Path, split: Split) -> str:
    if train.is_dir():
        return (
            f"data.train={train} has no file for {split}, such as {split}.csv or {split}.csv.gz; "
            f"give data.{split}=FILE."
        )
    return f"data.{split}= is needed beside data.train={train}, which is no folder; give a file."
