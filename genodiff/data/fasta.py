"""FASTA text to one byte a base, in one pass and bounded memory.

A *code* is what the rest of this package stores and reads: the token id of a base, plus
`SOFT_MASK` where the FASTA has it in lower case. The IUPAC ambiguity codes (R, Y, ...) are read as
N.
"""

import logging
from collections.abc import Iterable
from io import BufferedIOBase
from typing import NamedTuple

from genodiff.data.tokenizer import N_ID, VOCABULARY
from genodiff.errors import UserError

log = logging.getLogger(__name__)

SOFT_MASK = 0x80

_AMBIGUOUS = 12  # a code for the length of one block: counted, then made N
_ILLEGAL = 0xFF


class FastaRecord(NamedTuple):
    """One record: its name (the header's first word), its length, and where its text begins.

    `first_base` is the byte offset of the first base in the uncompressed text, `line_bases` the
    bases of the first line: columns 3 and 4 of a `.fai`.
    """

    name: str
    length: int
    first_base: int
    line_bases: int


class TextBlock(NamedTuple):
    """A piece of the text of a FASTA, cut anywhere.

    `codes` are those of all its letters without line ends, or None if there is a '>' among them.
    """

    text: bytes
    codes: bytes | None


def translate(text: bytes) -> TextBlock:
    """The part of the encoding that needs no knowledge of what was before, and all of the work."""
    return TextBlock(text, None if b">" in text else text.translate(_CODES, b"\r\n"))


def encode_fasta(
    blocks: Iterable[TextBlock], sink: BufferedIOBase, path: str
) -> list[FastaRecord]:
    """Write the codes of every record of a text, one after the other, to `sink`.

    `path` names the file in messages. Raises `UserError` for a file that does not begin with '>',
    for a record without a name or without bases, for a name that comes twice, and for a letter
    that is not IUPAC.
    """
    encoder = _Encoder(sink, path)
    header, in_header, at_line_start = b"", False, True
    offset = 0
    for text, codes in blocks:
        position = 0
        while position < len(text):
            if in_header:
                end = text.find(b"\n", position)
                stop = len(text) if end < 0 else end + 1
                header += text[position:stop]
                if in_header := end < 0:
                    break
                encoder.begin(header, first_base=offset + stop)
                at_line_start = True
            elif at_line_start and text.startswith(b">", position):
                header, in_header, stop = b"", True, position + 1
            elif codes is not None and position == 0:
                stop = len(text)
                encoder.add(text, codes)
                at_line_start = text.endswith(b"\n")
            else:
                end = text.find(b"\n>", position)
                stop = len(text) if end < 0 else end + 1
                bases = text[position:stop]
                encoder.add(bases, bases.translate(_CODES, b"\r\n"))
                at_line_start = bases.endswith(b"\n")
            position = stop
        offset += len(text)
    if in_header:
        encoder.begin(header, first_base=offset)
    return encoder.finish()


class _Encoder:
    """The record being read, and those before it."""

    def __init__(self, sink: BufferedIOBase, path: str):
        self.sink, self.path = sink, path
        self.records: list[FastaRecord] = []
        self.names: set[str] = set()
        self.current: FastaRecord | None = None
        self.in_first_line = False
        self.ambiguous = 0

    def begin(self, header: bytes, first_base: int) -> None:
        self._close()
        words = header.decode("utf-8", "replace").split()
        if not words or header[:1].isspace():
            raise UserError(
                f"{self.path}: a record has no name after '>' (byte {first_base - len(header)}); "
                "give it one."
            )
        if words[0] in self.names:
            raise UserError(
                f"{self.path}: the record name {words[0]!r} comes twice, and regions would be "
                "ambiguous; rename one."
            )
        self.names.add(words[0])
        self.current = FastaRecord(words[0], 0, first_base, 0)
        self.in_first_line = True

    def add(self, text: bytes, codes: bytes) -> None:
        """Bases, with line ends anywhere among them, and their codes."""
        record = self.current
        if record is None:
            if text.strip():
                raise UserError(
                    f"{self.path} does not begin with '>', so it is not FASTA; give a FASTA file, "
                    "plain, bgzip or gzip."
                )
            return
        if (at := codes.find(_ILLEGAL)) >= 0:
            letter = chr(text.translate(None, b"\r\n")[at])
            raise UserError(
                f"{self.path}: record {record.name!r} has {letter!r} at base "
                f"{record.length + at + 1} (counted from 1), which is not an IUPAC letter of DNA "
                "(ACGTN or RYSWKMBDHV); correct it or write N."
            )
        kinds = (_AMBIGUOUS, _AMBIGUOUS | SOFT_MASK)
        if any(codes.find(kind) >= 0 for kind in kinds):  # ten times as fast as counting them
            self.ambiguous += sum(codes.count(kind) for kind in kinds)
            codes = codes.translate(_AMBIGUOUS_TO_N)
        line_bases = record.line_bases
        if self.in_first_line:
            line = text.find(b"\n")
            self.in_first_line = line < 0
            line_bases += len(text[: len(text) if line < 0 else line].rstrip(b"\r"))
        self.current = record._replace(length=record.length + len(codes), line_bases=line_bases)
        self.sink.write(codes)

    def finish(self) -> list[FastaRecord]:
        self._close()
        if not self.records:
            raise UserError(
                f"{self.path} holds no sequence; give a FASTA file with at least one record."
            )
        if self.ambiguous:
            log.warning(
                "%s: %d ambiguity codes (R, Y, ...) are read as N", self.path, self.ambiguous
            )
        return self.records

    def _close(self) -> None:
        if self.current is None:
            return
        if self.current.length == 0:
            raise UserError(
                f"{self.path}: record {self.current.name!r} has no bases; remove it or give it "
                "some."
            )
        self.records.append(self.current)


def _code_table() -> bytes:
    table = bytearray([_ILLEGAL]) * 256
    for letter in "ACGTN" + "RYSWKMBDHV":
        code = VOCABULARY.index(letter) if letter in VOCABULARY else _AMBIGUOUS
        table[ord(letter)] = code
        table[ord(letter.lower())] = code | SOFT_MASK
    return bytes(table)


_CODES = _code_table()
_AMBIGUOUS_TO_N = bytes.maketrans(
    bytes([_AMBIGUOUS, _AMBIGUOUS | SOFT_MASK]), bytes([N_ID, N_ID | SOFT_MASK])
)
