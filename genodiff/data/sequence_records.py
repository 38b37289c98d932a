"""FASTA files as streams of records, for tasks that read sequences and not places on a genome.

What `genodiff.data.Genome` is for a file that is read at random, `read_fasta` is for one that is
read from front to end: nothing is indexed or kept, and a name may come twice.
"""

import gzip
import logging
import os
import re
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from genodiff.data.compression import compressed
from genodiff.errors import UserError

log = logging.getLogger(__name__)

_ILLEGAL = re.compile("[^ACGTNRYSWKMBDHVacgtnryswkmbdhv]")


class SequenceRecord(NamedTuple):
    """A record of a FASTA.

    name: the first word of its header. description: what follows that. letters: as they are in the
    file, lower case included, without blanks and line ends.
    """

    name: str
    description: str
    letters: str


def read_fasta(path: str | Path) -> Iterator[SequenceRecord]:
    """The records of a FASTA (plain, gzip or bgzip) in its order, one at a time in memory.

    Raises UserError, when it comes there: a file that is missing, empty, not FASTA or a gzip that
    is cut; a record without a name or without letters; a letter that is not IUPAC for DNA.
    """
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is not a file; give the path of a FASTA file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; change its permissions.")
    number = 0
    try:
        with _opened(path) as file:
            first = next((line for line in file if not line.isspace()), "")
            if first[:1] not in ("", ">"):
                raise UserError(
                    f"{path} does not begin with '>', so it is not FASTA; give a FASTA file, "
                    "plain, bgzip or gzip."
                )
            for title, letters in SimpleFastaParser(chain([first], file) if first else ()):
                number += 1
                yield _record(title, letters, number, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or is not valid gzip after {number} records ({error}); fetch or "
            "compress it again."
        ) from error
    if not number:
        raise UserError(f"{path} holds no sequence; give a FASTA file with at least one record.")


def _opened(path: Path) -> TextIOWrapper:
    """The text of a file. A header that is not UTF-8 is no reason to stop."""
    compression, has_end = compressed(path)
    if not has_end:
        log.warning("%s lacks the end marker of bgzip: it may be truncated", path)
    if compression == "none":
        return path.open(encoding="utf-8", errors="replace")
    return gzip.open(path, "rt", encoding="utf-8", errors="replace")


def _record(title: str, letters: str, number: int, path: Path) -> SequenceRecord:
    if not title or title[0].isspace():
        raise UserError(f"{path}: record {number} has no name after '>'; give it one.")
    name, *description = title.split(maxsplit=1)
    if not letters:
        raise UserError(
            f"{path}: record {number}, {name!r}, has no letters; remove it or give it some."
        )
    if illegal := _ILLEGAL.search(letters):
        raise UserError(
            f"{path}: record {number}, {name!r}, has {illegal.group()!r} at base "
            f"{illegal.start() + 1} (counted from 1), which is not an IUPAC letter of DNA (ACGTN "
            "or RYSWKMBDHV); correct it or write N."
        )
    return SequenceRecord(name, "".join(description), letters)
