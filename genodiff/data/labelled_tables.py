"""Tables of labelled sequences: CSV, TSV and JSON lines, plain or gzip, and parquet. They are read
row by row: one is in memory at a time.

CSV has commas, and quotes where needed; TSV has tabs, and a quote in it is a letter like any
other, as in the files of GLUE. A line of JSON is an object, all with the same keys.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from genodiff.data.plain_files import plain_lines, read_plain
from genodiff.errors import UserError

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_JSON, _PARQUET = ".jsonl", ".parquet"
_WANTED = "a CSV, TSV or FASTA"
_AFTER_CR = re.compile(r"(?<=\r)(?!\n)")
TABLES = (*_DELIMITERS, _JSON, _PARQUET)
"""The suffixes that name a table."""


class Table(NamedTuple):
    """The names of the columns, in lower case, and (line, cells) of the rows as they are read.

    Lines count from 1. What says what the columns are called is at the place `heading`.
    """

    path: Path
    header: list[str]
    rows: Iterator[tuple[int, list[str]]]
    heading: str

    def place(self, names: Sequence[str]) -> list[int]:
        """Where these columns are. Raises UserError if one of them is not there."""
        if missing := [name for name in names if name.lower() not in self.header]:
            raise UserError(f"{self.heading}: there is no column {missing[0]!r}, {self.has()}")
        return [self.header.index(name.lower()) for name in names]

    def has(self) -> str:
        """The columns that there are, as the end of a message."""
        return f"only {', '.join(map(repr, self.header))}; a header has to name the columns."


def suffix_of(path: Path) -> str:
    """The suffix that says what a file is."""
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".bgz")).suffix


def read_table(
    path: Path, *, header: Sequence[str] | None = None, skip_short: bool = False
) -> Table:
    """A table by the suffix of its file, which is one of `TABLES`.

    `header` names the columns of a CSV or TSV that does not; `skip_short` leaves out rows with
    fewer cells than columns. Raises UserError for a file that cannot be read or is no such table,
    and, when it comes to it, for a row with more or fewer cells than the header.
    """
    suffix = suffix_of(path)
    if suffix == _PARQUET:
        return _parquet(path)
    lines = _objects(path) if suffix == _JSON else _cells(path, _DELIMITERS[suffix])
    heading = f"{path}, line 1"
    if header is None:
        try:
            _, header = next(lines)
        except StopIteration:
            raise UserError(f"{path} is empty; give a header and rows.") from None
    names = [name.strip().lower() for name in header]
    return Table(path, names, _even(path, lines, len(names), skip_short), heading)


def read_text(path: Path) -> str:
    """The contents of a file in UTF-8, plain or gzip. Raises UserError if it is neither."""
    lines = read_plain(path, _WANTED).splitlines(keepends=True)
    return "".join(_decoded(path, lines))


def _decoded(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    """Lines of UTF-8, without the mark that may stand in front of the first."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; convert "
                "the file to UTF-8."
            ) from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends."""
    return _decoded(path, plain_lines(path, _WANTED))


def _even(
    path: Path, rows: Iterable[tuple[int, list[str]]], width: int, skip_short: bool
) -> Iterator[tuple[int, list[str]]]:
    for line, cells in rows:
        if len(cells) < width and skip_short:
            continue
        if len(cells) != width:
            raise UserError(
                f"{path}, line {line}: columns in the row: {len(cells)}, in the header: {width}; "
                "correct the row, or fetch the file again if it is cut."
            )
        yield line, cells


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if delimiter == "\t":
        for line, row in enumerate(_lines(path), start=1):
            if row.strip("\r\n"):
                yield line, row.removesuffix("\n").removesuffix("\r").split("\t")
        return
    pieces = (piece for line in _lines(path) for piece in _AFTER_CR.split(line) if piece)
    reader = csv.reader(pieces, delimiter=delimiter, strict=True)
    try:
        while True:
            with _cells_of_any_length():
                row = next(reader, None)
            if row is None:
                return
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: this is not CSV ({error}); correct it, or give the "
            "table as TSV."
        ) from error


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """The module csv refuses more than 131,072 letters, which a sequence may have."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _objects(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The keys of the first object, as a header, and the values of each."""
    keys: list[str] = []
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}, line {line}: this is not JSON ({error}).") from error
        if not isinstance(row, dict) or (keys and row.keys() != set(keys)):
            raise UserError(
                f"{path}, line {line}: every line is an object with the same keys, here "
                f"{', '.join(map(repr, keys)) or 'those of the first'}; correct it."
            )
        if not keys:
            keys = list(row)
            yield line, keys
        yield line, [_spelled(row[key]) for key in keys]


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(
            f"{path} is parquet, which is read by the package pyarrow; run pip install "
            "'genodiff[text]'."
        ) from error

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except (ArrowException, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{path} cannot be read as parquet ({reason}); fetch it again."
            ) from error

    def rows() -> Iterator[list[str]]:
        with told():
            for batch in file.iter_batches(batch_size=1024):
                columns = [
                    # Of a float32, the shortest number that is read as it.
                    column.to_numpy(zero_copy_only=False)
                    if "float" in str(column.type) and not column.null_count
                    else column.to_pylist()
                    for column in batch.columns
                ]
                yield from ([*map(_spelled, cells)] for cells in zip(*columns, strict=True))

    with told():
        file: Any = parquet.ParquetFile(path)
        header = [name.strip().lower() for name in file.schema_arrow.names]
    return Table(path, header, enumerate(rows(), start=1), str(path))


def _spelled(value: Any) -> str:
    return "" if value is None else str(value)
