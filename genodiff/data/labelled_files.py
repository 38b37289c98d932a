"""Labelled sequences from plain files: CSV and TSV with a header, and FASTA with the label in each
header; all of them also as gzip.

The format goes by the suffix. CSV has commas, and quotes where needed; TSV has tabs, and a quote
in it is a letter like any other, as in the files of GLUE. In FASTA the label is what stands behind
the last `|` of the header, or `label=...` anywhere in it.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from genodiff.data.datamodule import Tokenizer
from genodiff.data.genome import file_sha256
from genodiff.data.intervals import SPLITS, Split
from genodiff.data.labelled import ClassificationTask
from genodiff.data.labelled_rows import LabelledRow, encode_row, task_of
from genodiff.data.plain_files import read_plain
from genodiff.data.tokenizer import DnaTokenizer
from genodiff.errors import UserError

_TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_FASTAS = (".fa", ".fasta", ".fna")
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
_LABELS = ("label", "gold_label", "is_duplicate", "quality")
_LABEL_IN_HEADER = re.compile(r"(?:^|[\s|;,])label=([^\s|;,]+)")


def labelled_task(
    train: str | Path,
    test: str | Path | None = None,
    valid: str | Path | None = None,
    *,
    name: str | None = None,
    tokenizer: Tokenizer | None = None,
    columns: Sequence[str] | None = None,
    label: str | None = None,
) -> ClassificationTask:
    """A task of plain files, DNA unless a `tokenizer` says otherwise.

    Args:
        train: a CSV, TSV or FASTA, or a folder with one file of each split, called train, dev (or
            valid) and test.
        test: needed unless `train` is a folder with one.
        valid: if the task has validation data of its own.
        name: by default that of the folder, or of train's file.
        columns: of a table, those of the sequence; several texts are one row's, as `encode_row`
            joins them. By default the usual names, such as sequence, seq, or sentence1 and
            sentence2; capitals do not matter.
        label: the column of the label; by default it is called label, gold_label, is_duplicate or
            quality.

    Raises:
        UserError: for what cannot be read, and for what `encode_row` and `task_of` refuse.
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
    tokenizer = DnaTokenizer() if tokenizer is None else tokenizer
    return task_of(
        name or (train if is_folder else paths["train"]).name.partition(".")[0],
        {split: _rows(path, tokenizer, columns, label) for split, path in paths.items()},
        tokenizer,
        {split: str(path) for split, path in paths.items()},
        {
            "files": {
                split: {"path": str(path), "sha256": file_sha256(path)}
                for split, path in paths.items()
            }
        },
    )


class Table(NamedTuple):
    """The header of a CSV or TSV, in lower case, and (line, cells) of the rows as they are read;
    lines count from 1."""

    path: Path
    header: list[str]
    rows: Iterator[tuple[int, list[str]]]

    def place(self, names: Sequence[str]) -> list[int]:
        """Where these columns are. Raises UserError if one of them is not there."""
        if missing := [name for name in names if name.lower() not in self.header]:
            raise UserError(
                f"{self.path}, line 1: there is no column {missing[0]!r}, {self.has()}"
            )
        return [self.header.index(name.lower()) for name in names]

    def has(self) -> str:
        """The columns that there are, as the end of a message."""
        return f"only {', '.join(map(repr, self.header))}; a header has to name the columns."


def read_table(path: Path) -> Table:
    """Raises UserError for a file that cannot be read or is no such table, and, when it comes to
    it, for a row with more or fewer cells than the header."""
    lines = _cells(path, _TABLES[_format(path)])
    try:
        _, header = next(lines)
    except StopIteration:
        raise UserError(f"{path} is empty; give a header and rows.") from None
    names = [name.strip().lower() for name in header]
    return Table(path, names, _even(path, lines, len(names)))


def _even(
    path: Path, rows: Iterable[tuple[int, list[str]]], width: int
) -> Iterator[tuple[int, list[str]]]:
    for line, cells in rows:
        if len(cells) != width:
            raise UserError(
                f"{path}, line {line}: columns in the row: {len(cells)}, in the header: {width}; "
                "correct the row, or fetch the file again if it is cut."
            )
        yield line, cells


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    text = _read_text(path)
    if delimiter == "\t":
        for line, row in enumerate(text.split("\n"), start=1):
            if row.strip("\r"):
                yield line, row.removesuffix("\r").split("\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: this is not CSV ({error}); correct it, or give the "
            "table as TSV."
        ) from error


def _rows(
    path: Path, tokenizer: Tokenizer, columns: Sequence[str] | None, label: str | None
) -> list[LabelledRow]:
    if _format(path) in _FASTAS:
        records = _fasta_records(path)
    else:
        records = _table_records(read_table(path), columns, label)
    return [
        LabelledRow(where, encode_row(texts, tokenizer, where), word)
        for where, texts, word in records
    ]


def _table_records(
    table: Table, columns: Sequence[str] | None, label: str | None
) -> Iterator[tuple[str, list[str], str]]:
    """(where, texts, label) of each row."""
    texts = table.place(columns or _usual(table, _TEXTS, "sequence", "columns=[NAME]"))
    label_at = table.place(
        [label] if label else _usual(table, [(name,) for name in _LABELS], "label", "label=NAME")
    )[0]
    for line, cells in table.rows:
        where = f"{table.path}, line {line}"
        word = cells[label_at].strip()
        if not word:
            raise UserError(f"{where}: the label is empty; give one, or remove the row.")
        yield where, [cells[i] for i in texts], word


def _usual(
    table: Table, choices: Sequence[tuple[str, ...]], what: str, key: str
) -> tuple[str, ...]:
    """The first of several choices of columns that a table has."""
    for names in choices:
        if all(name in table.header for name in names):
            return names
    called = ", ".join(" and ".join(names) for names in choices)
    raise UserError(
        f"{table.path}, line 1: there is no column of the {what} ({called}), {table.has()} "
        f"Another name is given with data.{key}."
    )


def _fasta_records(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """(where, the sequence, label) of each record."""
    where, header, pieces = "", None, []
    for line, text in enumerate([*_read_text(path).split("\n"), ">"], start=1):
        if not text.startswith(">"):
            if header is None and text.strip():
                raise UserError(f"{path}, line {line}: FASTA begins with '>', not {text[:20]!r}.")
            pieces.append(text.strip())
            continue
        if header is not None:
            yield where, ["".join(pieces)], _label_in(header, where)
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


def _format(path: Path) -> str:
    """The suffix that says what a file is."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    suffix = Path(name).suffix
    if suffix not in (*_TABLES, *_FASTAS):
        raise UserError(
            f"{path}: the suffix {suffix!r} names no format; use one of "
            f"{', '.join((*_TABLES, *_FASTAS))}, with or without .gz."
        )
    return suffix


def _read_text(path: Path) -> str:
    content = read_plain(path, "a CSV, TSV or FASTA")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; convert the "
            "file to UTF-8."
        ) from error


def _find(folder: Path, split: Split) -> Path | None:
    for name in _FILE_NAMES[split]:
        for suffix in (*_TABLES, *_FASTAS):
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
