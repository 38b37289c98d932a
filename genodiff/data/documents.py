"""Documents of a corpus, one after the other, without ever holding more than one and a block.

A source of documents has numbers for them, from 0, and can begin at any: what was interrupted goes
on from there. Its identity is what its text is, not where it lies.
"""

import contextlib
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, final, runtime_checkable

from genodiff.data.genome import file_sha256
from genodiff.errors import UserError
from genodiff.files import write_text

MAX_DOCUMENT_BYTES = 1 << 25
_PIECE_BYTES = 1 << 20
_LARGE_FILE_BYTES = 1 << 26
_WHITE = b" \t\n\r\x0b\f"
_ENDINGS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")

Unit = Literal["paragraph", "line", "file"]
"""What a document of a text file is: what stands between blank lines, a line, or the file."""


@runtime_checkable
class Documents(Protocol):
    """A corpus, or a part of one."""

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells this text from others; JSON."""
        ...

    def documents(self, first: int = 0) -> Iterator[str]:
        """The documents from number `first` on; those without text too, as ""."""
        ...

    def count(self) -> int:
        """How many there are."""
        ...


@final
@dataclass(frozen=True)
class LocalDocuments:
    """Documents of files, one file after the other.

    Names that end in `.parquet` or `.jsonl` (also `.jsonl.gz`) are tables with the text in
    `column`; everything else is text in UTF-8, plain or gzip, of which `unit` is a document.

    Args:
        unit: "row" is a line with its line feed, and a blank line is a document without text, as
            the rows of WikiText are.
        between: what stands between two documents of a text file belongs to the first of them, so
            that every byte is in one; otherwise white space around a document is left out.
        max_document_bytes: a longer one is refused before it is held whole.
        digests: a folder where the SHA-256 of large files are kept.

    Raises UserError for what cannot be read, is damaged, or is not UTF-8, for tables without the
    column, and for documents that are too long; with the file and the place.
    """

    paths: tuple[Path, ...]
    unit: Unit | Literal["row"] = "paragraph"
    column: str = "text"
    between: bool = False
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    digests: Path | None = field(default=None, compare=False)

    @property
    def origin(self) -> str:
        """The file, or the first of them."""
        first, *others = self.paths
        return f"{first} and {len(others)} more" if others else str(first)

    def identity(self) -> dict[str, Any]:
        """SHA-256 of the files, in order, and how they are read."""
        how = {"unit": self.unit, "column": self.column, "between": self.between}
        return {"files": self._files, **how}

    @cached_property
    def _files(self) -> list[list[str]]:
        return [
            [_format(path), _digest(path, stamp, self.digests)]
            for path, stamp in zip(self.paths, self._stamps, strict=True)
        ]

    @cached_property
    def _stamps(self) -> list[list[int]]:
        """Of each file, when it was first asked for."""
        return [_stamp(path) for path in self.paths]

    def documents(self, first: int = 0) -> Iterator[str]:
        """See `Documents`. Raises UserError also if a file has changed since its identity was
        first asked for, or changes while it is read."""
        for path, before in zip(self.paths, self._stamps, strict=True):
            if _format(path) == "parquet":
                rows = _rows_of_parquet(path)
                if first >= rows:
                    first -= rows
                    continue
                yield from _parquet(path, self.column, first, self.max_document_bytes)
                first = 0
            else:
                # From its beginning: where a document begins in a text is not known before.
                read = self._jsonl if _format(path) == "jsonl" else self._text
                for document in read(path):
                    if first:
                        first -= 1
                    else:
                        yield document
            if _stamp(path) != before:
                raise UserError(
                    f"{path} changed while it was read; start again when it is complete."
                )

    def count(self) -> int:
        """See `Documents`; reads what is not parquet."""
        if all(_format(path) == "parquet" for path in self.paths):
            return sum(map(_rows_of_parquet, self.paths))
        return sum(1 for _ in self.documents())

    def _text(self, path: Path) -> Iterator[str]:
        limit = _Limit(path, self.max_document_bytes)
        with opened(path) as file:
            pieces = iter(lambda: file.readline(_PIECE_BYTES), b"")
            cut = _rows if self.unit == "row" else _units(self.unit)
            for start, content in cut(pieces, limit):
                document = _decoded(content, path, start)
                if self.unit == "row":
                    yield "" if document.isspace() else document
                else:
                    yield document if self.between else document.strip(_WHITE.decode())

    def _jsonl(self, path: Path) -> Iterator[str]:
        limit = _Limit(path, self.max_document_bytes)
        with opened(path) as file:
            pieces = iter(lambda: file.readline(_PIECE_BYTES), b"")
            for number, (start, line) in enumerate(_rows(pieces, limit), start=1):
                if not line.isspace():
                    where = f"{path}, line {number}"
                    yield _of_json(_decoded(line, path, start), self.column, where)


@final
@dataclass(frozen=True)
class Part:
    """The documents of `whole` from number `start` to `stop`, which count from the end if they are
    negative, as in `train[-100000:]`."""

    whole: Documents
    start: int | None
    stop: int | None

    @property
    def origin(self) -> str:
        """That of the whole, and the numbers."""
        ends = ("" if end is None else end for end in (self.start, self.stop))
        return f"{self.whole.origin}[{':'.join(map(str, ends))}]"

    def identity(self) -> dict[str, Any]:
        """That of the whole, and the numbers."""
        return {"whole": self.whole.identity(), "start": self.start, "stop": self.stop}

    @cached_property
    def _range(self) -> range:
        return range(self.whole.count())[self.start : self.stop]

    def documents(self, first: int = 0) -> Iterator[str]:
        """See `Documents`."""
        numbers = self._range[first:]
        yield from islice(self.whole.documents(numbers.start), len(numbers))

    def count(self) -> int:
        """See `Documents`."""
        return len(self._range)


def text_files(path: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """A file; the files of a folder, in the order of their names; or all of these, one after the
    other. Raises UserError for a folder without any."""
    if not isinstance(path, str | Path):
        return tuple(file for each in path for file in text_files(each))
    path = Path(path)
    if not path.is_dir():
        return (path,)
    found = tuple(sorted(file for file in path.iterdir() if _is_text(file)))
    if not found:
        raise UserError(
            f"{path} is a folder without text; give one with files *{', *'.join(_ENDINGS)}, or a "
            "file."
        )
    return found


def check_document(text: str, max_document_bytes: int, where: str) -> str:
    """`text`, which is at hand. Raises UserError if it is too long, or is none."""
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the text has half of a surrogate pair at letter {error.start}, which is no "
            "character; remove it."
        ) from error
    if size > max_document_bytes:
        raise UserError(
            f"{where}: the document has {size} bytes, and max_document_bytes={max_document_bytes} "
            "is as much as is held at once; cut it up, or raise that."
        )
    return text


def column_error(where: str, column: str, columns: Iterable[str]) -> UserError:
    """For a table without the column."""
    return UserError(f"{where} has no column {column!r}, but {', '.join(columns)}; give column=.")


def _is_text(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_ENDINGS) and not path.name.startswith(".")


def _format(path: Path) -> Literal["parquet", "jsonl", "text"]:
    name = path.name.removesuffix(".gz")
    return (
        "parquet" if name.endswith(".parquet") else "jsonl" if name.endswith(".jsonl") else "text"
    )


class _Limit(NamedTuple):
    """How long a document of a file may be."""

    path: Path
    max_document_bytes: int

    def check(self, start: int, size: int) -> None:
        if size > self.max_document_bytes:
            raise UserError(
                f"{self.path}: the document that begins at byte {start} is longer than "
                f"max_document_bytes={self.max_document_bytes}, as much as is held at once; cut "
                "it up, or raise that."
            )


_Cut = Callable[[Iterator[bytes], _Limit], Iterator[tuple[int, bytes]]]
"""From pieces of lines, each up to and with its line feed, to documents and where they begin."""


def _rows(pieces: Iterator[bytes], limit: _Limit) -> Iterator[tuple[int, bytes]]:
    start, size, held = 0, 0, []
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        limit.check(start, size)
        if piece.endswith(b"\n"):
            yield start, b"".join(held)
            start, size, held = start + size, 0, []
    if held:
        yield start, b"".join(held)


def _units(unit: Unit | Literal["row"]) -> _Cut:
    """A document begins with the line of its first letter, and what follows it up to the next
    belongs to it."""

    def cut(pieces: Iterator[bytes], limit: _Limit) -> Iterator[tuple[int, bytes]]:
        start, size, held = 0, 0, []
        has_text, line_is_blank, after_blank = False, True, False
        for piece in pieces:
            if not piece.isspace():
                is_first = line_is_blank and (unit == "line" or after_blank) and unit != "file"
                if is_first and has_text:
                    yield start, b"".join(held)
                    start, size, held = start + size, 0, []
                has_text, line_is_blank, after_blank = True, False, False
            held.append(piece)
            size += len(piece)
            limit.check(start, size)
            if piece.endswith(b"\n"):
                after_blank, line_is_blank = after_blank or line_is_blank, True
        if has_text:
            yield start, b"".join(held)

    return cut


def _decoded(content: bytes, path: Path, start: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {start + error.start} (counted from 0, decompressed): "
            f"0x{content[error.start]:02x}; convert it to UTF-8."
        ) from error


def _of_json(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); write an object a line.") from error
    if not isinstance(row, dict):
        raise UserError(f'{where} is not an object of JSON; write {{"{column}": "..."}}.')
    if column not in row:
        raise column_error(where, column, row)
    text = row[column]
    if not isinstance(text, str | None):
        raise UserError(f"{where}: {column} is {type(text).__name__}, not text; give column=.")
    return check_document(text or "", len(line.encode()), where)


def _parquet(path: Path, column: str, first: int, limit: int) -> Iterator[str]:
    pyarrow = _pyarrow(path)
    with _parquet_file(path) as file:
        if column not in file.schema_arrow.names:
            raise column_error(str(path), column, file.schema_arrow.names)
        kind = file.schema_arrow.field(column).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise UserError(f"{path}: column {column!r} holds {kind}, not text; give column=.")
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= first:
                number += rows
                continue
            size = file.metadata.row_group(group).total_byte_size
            at_once = max(1, min(8192, _PIECE_BYTES * 8 * rows // max(1, size)))
            for batch in file.iter_batches(at_once, row_groups=[group], columns=[column]):
                texts = batch.column(0)
                longest = pyarrow.compute.max(pyarrow.compute.binary_length(texts)).as_py() or 0
                for text in _texts(texts, path, number, longest, limit):
                    if number >= first:
                        yield text
                    number += 1


def _texts(texts: Any, path: Path, number: int, longest: int, limit: int) -> Iterator[str]:
    """The texts of a column of Arrow, none of them too long."""
    where = f"{path}, rows {number} to {number + len(texts) - 1} (counted from 0)"
    if longest > limit:
        raise UserError(
            f"{where}: a document has {longest} bytes, and max_document_bytes={limit} is as much "
            "as is held at once; cut it up, or raise that."
        )
    try:
        yield from (text or "" for text in texts.to_pylist())
    except UnicodeDecodeError as error:
        raise UserError(f"{where} are not UTF-8 ({error.reason}); write them again.") from error


def _rows_of_parquet(path: Path) -> int:
    with _parquet_file(path) as file:
        return file.metadata.num_rows


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    pyarrow = _pyarrow(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"{path} is truncated or is not parquet ({str(error).splitlines()[0]}); get it again."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path} is read by pyarrow, which is not installed; pip install 'genodiff[text]'."
        ) from error
    return pyarrow


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A file, inflated if it is gzip. Raises UserError where it is read and cannot be."""
    try:
        with path.open("rb") as file:
            if file.peek(2).startswith(b"\x1f\x8b"):  # no UTF-8 begins so
                inflated: Any = gzip.GzipFile(fileobj=file)
                yield io.BufferedReader(inflated, _PIECE_BYTES)
            else:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or is not valid gzip ({error}); fetch or compress it again."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({error.strerror}); give the path of a text, a .jsonl or a "
        ".parquet."
    )


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return [status.st_size, status.st_mtime_ns]


def _digest(path: Path, stamp: list[int], kept_in: Path | None) -> str:
    """SHA-256 of a file; of a large one, as it was when it last had this size and time."""
    try:
        if kept_in is None or stamp[0] <= _LARGE_FILE_BYTES:
            return file_sha256(path)
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
        kept = kept_in / f"{name}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            held = json.loads(kept.read_text(encoding="utf-8"))
            if held["stamp"] == stamp:
                return held["sha256"]
        digest = file_sha256(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with contextlib.suppress(OSError):  # a folder that is only readable serves as well
        kept_in.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps({"path": str(path), "stamp": stamp, "sha256": digest}))
    return digest
