"""MEME files: what they say, and one line for each way in which they are broken."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from genodiff.data import read_motifs
from genodiff.errors import UserError

FILE = """MEME version 4

ALPHABET= ACGT

strands: + -

Background letter frequencies (from uniform background):
A 0.25000 C 0.25000 G 0.25000 T 0.25000

MOTIF MA0001.1 first

letter-probability matrix: alength= 4 w= 2 nsites= 1 E= 0
  0.143500\t0.248000\t0.348000\t0.260500
  0 0.5 5e-1 0.0
URL http://somewhere

MOTIF second
letter-probability matrix: alength= 4 w= 1
0.25 0.25 0.25 0.25
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "motifs.meme"
    path.write_text(text)
    return path


def test_names_and_probabilities_are_what_the_file_says(tmp_path: Path) -> None:
    # Biopython would round these, with nsites= 1, to zeros and ones.
    first, second = read_motifs(written(tmp_path, FILE))
    assert (first.name, first.alternate) == ("MA0001.1", "first")
    assert (second.name, second.alternate) == ("second", "")
    expected = [[0.1435, 0.248, 0.348, 0.2605], [0, 0.5, 0.5, 0]]
    np.testing.assert_allclose(first.probabilities, expected, rtol=1e-12)
    np.testing.assert_array_equal(second.probabilities, [[0.25] * 4])


def test_a_gzip_file_is_read_like_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "motifs.meme.gz"
    path.write_bytes(gzip.compress(FILE.encode()))
    plain = read_motifs(written(tmp_path, FILE))
    for one, other in zip(read_motifs(str(path)), plain, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_rows_of_rounded_numbers_are_divided_by_their_sum(tmp_path: Path) -> None:
    thirds = FILE.replace("0.25 0.25 0.25 0.25", "0.33 0.33 0.33 0.00")
    motif = read_motifs(written(tmp_path, thirds))[1]
    np.testing.assert_allclose(motif.probabilities, [[1 / 3, 1 / 3, 1 / 3, 0]])


def test_the_text_output_of_meme_is_read_too(tmp_path: Path) -> None:
    text = """********************************************************************************
MEME version 5.5.5 (Release date: Thu Sep 14 08:48:04 2023 +1000)
ALPHABET= ACGT
********************************************************************************
MOTIF TA MEME-1\twidth =   2  sites =   3  llr = 4  E-value = 7.0e-001
********************************************************************************
\tMotif TA MEME-1 position-specific scoring matrix
log-odds matrix: alength= 4 w= 2 n= 97 bayes= 5 E= 7.0e-001
  -823   -823   -823    200
   200   -823   -823   -823
--------------------------------------------------------------------------------
\tMotif TA MEME-1 position-specific probability matrix
--------------------------------------------------------------------------------
letter-probability matrix: alength= 4 w= 2 nsites= 3 E= 7.0e-001
 0.000000  0.000000  0.000000  1.000000
 1.000000  0.000000  0.000000  0.000000
--------------------------------------------------------------------------------
"""
    (motif,) = read_motifs(written(tmp_path, text))
    assert motif[:2] == ("TA", "MEME-1")
    np.testing.assert_array_equal(motif.probabilities, np.eye(4)[[3, 0]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0 0.5 5e-1 0.0", "0 0.5 0.4 0", r"line 14: motif MA0001.1 has the row `0 0.5 0.4 0`"),
        ("0 0.5 5e-1 0.0", "0 0.5 0.5", r"line 14: motif MA0001.1 .* not four probabilities"),
        ("0 0.5 5e-1 0.0", "0 0.25 0.25 0.25 0.25", r"line 14: .* not four probabilities"),
        ("0 0.5 5e-1 0.0", "0 1.5 -0.5 0", r"line 14: .* not four probabilities"),
        ("0 0.5 5e-1 0.0", "0 half 0.5 0", r"line 14: .* row `0 half 0.5 0`"),
        ("0 0.5 5e-1 0.0", "0 nan 0.5 0.5", r"line 14: .* not four probabilities"),
        ("0 0.5 5e-1 0.0\n", "", r"line 12: motif MA0001.1 has 1 rows of numbers.* w= 2;"),
        ("w= 1", "w= 3", r"line 18: motif second has 1 rows .* w= 3; correct the matrix"),
        ("w= 2", "w= 1", r"line 12: motif MA0001.1 has 2 rows .* w= 1;"),
        ("0.25 0.25 0.25 0.25\n", "", r"line 18: motif second has 0 rows"),
        ("alength= 4 w= 1", "alength= 20 w= 1", r"line 18: motif second has alength= 20"),
        ("letter-probability matrix: alength= 4 w= 1\n", "", r"line 17: motif second has no matr"),
        ("MOTIF second\n", "", r"line 17: this matrix has no motif"),
        ("MOTIF second", "MOTIF", r"line 17: a motif without a name"),
        ("MOTIF second", "MOTIF MA0001.1", r"line 17: motif MA0001.1 is there already .*line 10"),
        ("ALPHABET= ACGT", "ALPHABET= ACGU", r"line 3: motifs of the alphabet ACGU"),
        ("ALPHABET= ACGT", 'ALPHABET "mine" DNA-LIKE', r"line 3: .* alphabet \"mine\" DNA-LIKE"),
        ("MEME version 4", "", r"no line `MEME version 4`, so it is not in MEME's format"),
        (FILE, "", r"motifs.meme has no line `MEME version 4`"),
        (FILE, "MEME version 4\n", r"motifs.meme holds no motif; give a file"),
        (FILE, ">seq\nACGT\n", r"not in MEME's format"),
    ],
)
def test_what_is_broken_is_told_in_one_line(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in FILE
    path = written(tmp_path, FILE.replace(old, new))
    with pytest.raises(UserError, match=message) as raised:
        read_motifs(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_or_truncated_file_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.meme cannot be read .* motifs in MEME's format"):
        read_motifs(tmp_path / "none.meme")
    cut = tmp_path / "cut.meme.gz"
    cut.write_bytes(gzip.compress(FILE.encode())[:60])
    with pytest.raises(UserError, match=r"cut\.meme\.gz is truncated"):
        read_motifs(cut)
