"""VCF files as streams: the header, then records, each line kept as it is.

Read are plain text, gzip and bgzip, and, with pysam, BCF; no index is needed. Positions count from
1, as in the file.
"""

import gzip
import os
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast, final

from genodiff.data.compression import compressed
from genodiff.errors import UserError

COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")

_ENCODING, _ERRORS = (
    "utf-8",
    "surrogateescape",
)  # bytes that are not UTF-8 come out as they went in
_INFO = 7


class VariantRecord(NamedTuple):
    """A line of a VCF. `columns`: as they are in the file, the eight that are fixed and, as one,
    whatever follows. `line` counts from 1."""

    line: int
    columns: list[str]

    @property
    def chrom(self) -> str:
        return self.columns[0]

    @property
    def position(self) -> int:
        """Of the first base of REF, from 1."""
        return int(self.columns[1])

    @property
    def name(self) -> str:
        return self.columns[2]

    @property
    def ref(self) -> str:
        return self.columns[3]

    @property
    def alternatives(self) -> list[str]:
        """The ALT alleles; one '.' where there are none."""
        return self.columns[4].split(",")

    def text(self, info: Sequence[str] = ()) -> str:
        """The line, with fields added to INFO."""
        columns = list(self.columns)
        if info:
            given = () if columns[_INFO] in (".", "") else (columns[_INFO],)
            columns[_INFO] = ";".join((*given, *info))
        return "\t".join(columns)


@final
class VariantFile:
    """A VCF or BCF, whose records are read as often as it is iterated over.

    `header`: its lines, the one that begins with #CHROM last. Raises UserError for a file that is
    missing, cut or no VCF, and, when it comes to it, with the line, for a record that is none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header: list[str] = []
        with closing(_lines(self.path)) as lines:
            for number, line in lines:
                if not line.startswith("#"):
                    raise UserError(
                        f"{self.path}, line {number}: a record before any line that begins with "
                        f"#CHROM, so its columns are not known; put '{' '.join(COLUMNS)}', "
                        "separated by tabs, before it."
                    )
                self.header.append(line)
                if line.startswith("#CHROM"):
                    break
            else:
                raise UserError(f"{self.path} has no line that begins with #CHROM; give a VCF.")
        if tuple(self.header[-1].split("\t")[:8]) != COLUMNS:
            raise UserError(
                f"{self.path}, line {len(self.header)}: the columns of a VCF are "
                f"'{' '.join(COLUMNS)}', separated by tabs; correct that line."
            )
        if not self.header[0].startswith("##fileformat="):
            self.header.insert(0, "##fileformat=VCFv4.2")

    def __iter__(self) -> Iterator[VariantRecord]:
        for number, line in _lines(self.path):
            if line and not line.startswith("#"):
                yield _record(self.path, number, line)

    def declares(self, name: str) -> bool:
        """Whether the header has an INFO field of that name."""
        return any(line.startswith(f"##INFO=<ID={name},") for line in self.header)


@contextmanager
def open_sink(path: Path, *, bgzip: bool) -> Iterator[BinaryIO]:
    """A file to write to, if asked compressed as bgzip, so that tabix can index it."""
    if not bgzip:
        with path.open("wb") as file:
            yield file
        return
    from Bio.bgzf import BgzfWriter

    with BgzfWriter(str(path), "wb") as writer:
        yield cast(BinaryIO, writer)


def encoded(lines: Sequence[str]) -> bytes:
    """Lines as they go into a file."""
    return "".join(f"{line}\n" for line in lines).encode(_ENCODING, _ERRORS)


def _record(path: Path, number: int, line: str) -> VariantRecord:
    columns = line.split("\t", 8)
    if len(columns) < 8:
        raise UserError(
            f"{path}, line {number}: {len(columns)} columns separated by tabs, and a record of a "
            "VCF has 8 or more; correct it."
        )
    if not (columns[1].isascii() and columns[1].isdecimal()):
        raise UserError(
            f"{path}, line {number}: POS {columns[1]!r} is not a whole number; correct it."
        )
    return VariantRecord(number, columns)


def _lines(path: Path) -> Generator[tuple[int, str], None, None]:
    """(number, counted from 1; line without its end) of a VCF, or of a BCF as its VCF."""
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file; give the path of a VCF.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; change its permissions.")
    number = 0
    try:
        lines = _bcf_lines(path) if _is_bcf(path) else _text_lines(path)
        for number, line in enumerate(lines, start=1):
            yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or is not valid gzip after line {number} ({error}); fetch or "
            "compress it again."
        ) from error


def _text_lines(path: Path) -> Iterator[str]:
    compression, has_end = compressed(path)
    if not has_end:
        raise EOFError("it lacks the end marker of bgzip")
    with path.open("rb") as raw:
        source = raw if compression == "none" else gzip.GzipFile(fileobj=raw)
        with TextIOWrapper(source, _ENCODING, _ERRORS, newline="\n") as text:
            for line in text:
                yield line.rstrip("\r\n")


def _is_bcf(path: Path) -> bool:
    is_plain = compressed(path).compression == "none"
    with path.open("rb") if is_plain else gzip.open(path) as file:
        return file.read(3) == b"BCF"


def _bcf_lines(path: Path) -> Iterator[str]:
    try:
        import pysam
    except ImportError as error:
        raise UserError(
            f"{path} is BCF, which pysam reads; pip install 'genodiff[variants]', or make it a "
            "VCF: bcftools view."
        ) from error
    try:
        before = pysam.set_verbosity(0)  # it complains of an index that nobody asked for
        try:
            reader = pysam.VariantFile(str(path))
        finally:
            pysam.set_verbosity(before)
        with reader:
            yield from str(reader.header).splitlines()
            for record in reader:
                yield str(record).rstrip("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is BCF and cannot be read ({error}); make it again.") from error
