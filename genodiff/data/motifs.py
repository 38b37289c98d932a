"""Motifs as matrices of letter probabilities, from files in MEME's format.

JASPAR, HOCOMOCO and most motif finders write it (https://meme-suite.org/meme/doc/meme-format.html).
Biopython reads it as counts, rounded to the number of sites: where that is 1, as in JASPAR's
clusters, nothing but zeros and ones is left. It also takes what is broken.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from genodiff.data.plain_files import read_plain
from genodiff.errors import UserError

_LETTERS = "ACGT"
_ROUNDING = 0.021  # of the sum of a row: four numbers of two digits are off by up to 0.02
_FIELD = re.compile(r"(\w+)\s*=\s*(\S+)")


class MotifMatrix(NamedTuple):
    """The probability of A, C, G and T, in this order, at each of the w places of a motif.

    `name` is its identifier, e.g. MA0139.1, and `alternate` what else it is called, e.g. CTCF, or
    empty.
    """

    name: str
    alternate: str
    probabilities: Float[np.ndarray, "w 4"]


class _Heading(NamedTuple):
    """A line MOTIF: where it is, and what it says."""

    where: str
    name: str
    alternate: str


def read_motifs(path: str | Path) -> list[MotifMatrix]:
    """The motifs of a MEME file (plain or gzip), in its order.

    Reads the minimal format and the text output of MEME. Each row is divided by its sum.

    Raises:
        UserError: not a MEME file, of letters other than ACGT, without a motif, two motifs of one
            name, or a matrix that is missing or broken; with the motif and the line.
    """
    text = read_plain(Path(path), "motifs in MEME's format").decode("utf-8", "replace")
    lines = text.splitlines()
    if not any(line.startswith("MEME version") for line in lines):
        raise UserError(
            f"{path} has no line `MEME version 4`, so it is not in MEME's format; give such a "
            "file, which JASPAR and HOCOMOCO offer for download."
        )
    headings: dict[str, _Heading] = {}
    motifs: dict[str, MotifMatrix] = {}
    latest = None
    for i, line in enumerate(lines):
        where = f"{path}, line {i + 1}"
        if line.startswith("ALPHABET"):
            _check_alphabet(where, line)
        elif line.split()[:1] == ["MOTIF"]:
            latest = _heading(where, line)
            if latest.name in headings:
                raise UserError(
                    f"{where}: motif {latest.name} is there already "
                    f"({headings[latest.name].where}); give every motif a name of its own."
                )
            headings[latest.name] = latest
        elif line.startswith("letter-probability matrix"):
            if latest is None or latest.name in motifs:
                raise UserError(
                    f"{where}: this matrix has no motif; put a line `MOTIF name` before each."
                )
            rows = _matrix(str(path), latest.name, lines, i)
            motifs[latest.name] = MotifMatrix(latest.name, latest.alternate, rows)
    for heading in headings.values():
        if heading.name not in motifs:
            raise UserError(
                f"{heading.where}: motif {heading.name} has no matrix; put `letter-probability "
                "matrix:` and its rows below, or leave the motif out."
            )
    if not motifs:
        raise UserError(f"{path} holds no motif; give a file with lines `MOTIF name`.")
    return list(motifs.values())


def _check_alphabet(where: str, line: str) -> None:
    letters = line.removeprefix("ALPHABET").strip().removeprefix("=").strip()
    if letters != _LETTERS:
        raise UserError(
            f"{where}: motifs of the alphabet {letters} cannot be looked for in DNA; give motifs "
            f"of ALPHABET= {_LETTERS}."
        )


def _heading(where: str, line: str) -> _Heading:
    _, *names = line.split()
    if not names:
        raise UserError(f"{where}: a motif without a name; write `MOTIF name`.")
    return _Heading(where, names[0], names[1] if len(names) > 1 else "")


def _matrix(path: str, name: str, lines: list[str], header: int) -> Float[np.ndarray, "w 4"]:
    """The rows below line `header` (0-based)."""
    fields = dict(_FIELD.findall(lines[header]))
    if fields.get("alength", "4") != "4":
        raise UserError(
            f"{path}, line {header + 1}: motif {name} has alength= {fields['alength']}, and DNA "
            "has 4 letters; give motifs of DNA."
        )
    first = header + 1
    while first < len(lines) and not lines[first].strip():
        first += 1
    rows = []
    for number, line in enumerate(lines[first:], start=first + 1):
        words = line.split()
        if not words or not _is_number(words[0]):
            break
        rows.append(_row(f"{path}, line {number}: motif {name}", words))
    wanted = fields.get("w", str(len(rows)))
    if not rows or wanted != str(len(rows)):
        raise UserError(
            f"{path}, line {header + 1}: motif {name} has {len(rows)} rows of numbers, and its "
            f"header says w= {fields.get('w', 'nothing')}; correct the matrix or the header."
        )
    return np.array(rows)


def _row(where: str, words: list[str]) -> Float[np.ndarray, " 4"]:
    row = np.array([float(word) if _is_number(word) else np.nan for word in words])
    is_law = len(row) == len(_LETTERS) and ((row >= 0) & (row <= 1)).all()
    if not is_law or abs(row.sum() - 1) > _ROUNDING:
        raise UserError(
            f"{where} has the row `{' '.join(words)}`, which is not four probabilities with the "
            "sum 1; correct it."
        )
    return row / row.sum()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
